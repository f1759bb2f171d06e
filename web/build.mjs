// Builds the console's scripts and styles into registry/console/assets, each under a name with its digest, and
// writes manifest.json (source name -> built name) and the licences of what is inside.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, extname, join } from "node:path";

// For WebAssembly, and for WebGPU.
const RUNTIME = [
  "ort.wasm.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
  "ort.webgpu.min.mjs",
  "ort-wasm-simd-threaded.asyncify.mjs",
  "ort-wasm-simd-threaded.asyncify.wasm",
];

const out = join(import.meta.dirname, "../registry/console/assets");
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

const source = (name) => join(import.meta.dirname, "src", name);
const entries = readdirSync(source("")).filter((name) => /^[a-z-]+\.(js|css)$/.test(name) && !name.startsWith("lib-"));
const result = await build({
  entryPoints: entries.map(source),
  outdir: out,
  bundle: true,
  splitting: true,
  format: "esm",
  minify: true,
  target: ["es2022", "safari16", "firefox115", "chrome110"],
  entryNames: "[name]-[hash]",
  chunkNames: "chunk-[hash]",
  legalComments: "none",
  metafile: true,
});

const files = {};
for (const [path, made] of Object.entries(result.metafile.outputs)) {
  if (made.entryPoint && entries.includes(basename(made.entryPoint))) files[basename(made.entryPoint)] = basename(path);
}
for (const name of readdirSync(join(import.meta.dirname, "public"))) {
  const content = readFileSync(join(import.meta.dirname, "public", name));
  const digest = createHash("sha256").update(content).digest("hex").slice(0, 8).toUpperCase();
  files[name] = `${basename(name, extname(name))}-${digest}${extname(name)}`;
  writeFileSync(join(out, files[name]), content);
}

// onnxruntime-web is no part of the bundle: its 41 MB are fetched by one page, and are not committed.
const runtime = join(import.meta.dirname, "node_modules", "onnxruntime-web");
files.onnxruntime = `onnxruntime-${JSON.parse(readFileSync(join(runtime, "package.json"), "utf8")).version}`;
mkdirSync(join(out, files.onnxruntime));
for (const name of RUNTIME) copyFileSync(join(runtime, "dist", name), join(out, files.onnxruntime, name));

const sorted = Object.fromEntries(Object.entries(files).sort());
writeFileSync(join(out, "manifest.json"), JSON.stringify(sorted, null, 2) + "\n");

// Every package whose code is inside, by the modules that were bundled.
const packages = new Set();
for (const input of Object.keys(result.metafile.inputs)) {
  const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/);
  if (found) packages.add(found[1]);
}
const licences = [...packages].sort().map((name) => {
  const folder = join(import.meta.dirname, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const texts = readdirSync(folder, { withFileTypes: true })
    .filter((file) => file.isFile() && /^(licen[cs]e|notice)/i.test(file.name))
    .map((file) => file.name);
  const text = texts.map((file) => readFileSync(join(folder, file), "utf8").trim()).join("\n\n");
  return `${name} ${version} (${license})\n\n${text}\n`;
});
writeFileSync(join(out, "LICENCES.txt"), licences.join(`\n${"-".repeat(78)}\n\n`));
