// Check on your device: pictures are decoded and read here, and only their readings are sent.

import { announce } from "./console.js";
import { signedIn } from "./lib-session.js";

const LARGEST = 64 << 20;
const PIXELS = 100e6;
const SMALLEST = 8;
const READINGS = 128;

const form = document.getElementById("device");
const results = document.getElementById("results");
const worker = new Worker(form.dataset.worker, { type: "module" });
const waiting = new Map();
let count = 0;

worker.addEventListener("message", ({ data }) => {
  const { resolve, reject } = waiting.get(data.number);
  waiting.delete(data.number);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
});
worker.addEventListener("error", (event) => {
  for (const { reject } of waiting.values()) reject(new Error(`The runtime does not start here: ${event.message}.`));
  waiting.clear();
});

function read(network, picture) {
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject });
    const { runtime } = form.dataset;
    worker.postMessage({ number: count, runtime: new URL(runtime, location).href, network, picture });
  });
}

/** The pixels of a file as displayed: turned as its EXIF says, in sRGB, what is transparent on white. */
async function decode(file) {
  if (file.size > LARGEST) throw new Error(`It is larger than ${LARGEST >> 20} MiB.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "default" });
  } catch {
    throw new Error("It is no image that this browser can read. JPEG, PNG, WebP and AVIF work everywhere.");
  }
  const { width, height } = bitmap;
  if (width * height > PIXELS) throw new Error(`It has ${width} x ${height} pixels, more than can be read here.`);
  if (Math.min(width, height) < SMALLEST) throw new Error(`It has ${width} x ${height} pixels, too few to read.`);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { width, height, data };
}

async function ask(model, network, ranked, groups) {
  const readings = ranked.slice(0, READINGS).map((reading) => reading.logits);
  const answer = await fetch(form.dataset.resolve, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": await signedIn() },
    body: JSON.stringify({ model, network, images: [{ readings }], groups }),
  });
  const text = await answer.text();
  if (answer.ok) return text;
  let told = "";
  try {
    const problem = JSON.parse(text);
    told = [problem.detail, problem.hint].filter(Boolean).join(" ");
  } catch {
    // A page, or nothing: the status has to do.
  }
  throw new Error(told || `The registry answered ${answer.status}.`);
}

async function check(file, option, groups) {
  const row = document.getElementById("result").content.cloneNode(true).firstElementChild;
  row.querySelector("[data-name]").textContent = file.name;
  const picture = row.querySelector("img");
  picture.src = URL.createObjectURL(file);
  picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
  picture.addEventListener("error", () => picture.remove(), { once: true });
  results.prepend(row);
  const said = row.querySelector("[data-said]");
  try {
    said.textContent = "Reading it here …";
    const { network, digest } = option.dataset;
    const { device, ranked, milliseconds } = await read(network, await decode(file));
    row.dataset.logits = JSON.stringify(ranked[0].logits);
    row.dataset.pose = JSON.stringify(ranked[0].pose);
    row.dataset.milliseconds = milliseconds.toFixed(0);
    row.querySelector("[data-how]").textContent =
      `Read with ${device === "webgpu" ? "WebGPU" : "WebAssembly"} in ${milliseconds.toFixed(0)} ms; ` +
      `${Math.min(ranked.length, READINGS)} reading${ranked.length > 1 ? "s" : ""} sent, no pixel of it.`;
    said.textContent = "Asking the registry …";
    said.innerHTML = await ask(option.value, digest, ranked, groups);
    said.dispatchEvent(new CustomEvent("htmx:load", { bubbles: true, detail: { elt: said } }));
    announce(`${file.name}: ${said.querySelector("h3").textContent}`);
  } catch (error) {
    const note = document.createElement("p");
    note.className = "error";
    note.textContent = error.message;
    said.replaceChildren(note);
    announce(`${file.name}: ${error.message}`);
  }
  row.dataset.done = "";
}

let queue = Promise.resolve();

function take(files) {
  const chosen = [...files];
  const option = form.elements.model.selectedOptions[0];
  for (const file of chosen) queue = queue.then(() => check(file, option, chosen.length));
}

form.elements.images.addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());
const area = form.querySelector(".drop");
for (const kind of ["dragenter", "dragover"]) {
  area.addEventListener(kind, (event) => {
    event.preventDefault();
    area.classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) area.addEventListener(kind, () => area.classList.remove("over"));
area.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
