// Reads pictures with an attribution network, beside the page: { runtime, network, picture } -> readings.
// The runtime (onnxruntime-web) and the network are fetched from this registry; nothing is sent anywhere.

import { Reader } from "./lib-poses.js";

const most = { wasm: 16, webgpu: 128 };
let opened; // of the network that was used last

async function open(runtime, network) {
  if (opened?.network === network) return opened;
  const device = (await navigator.gpu?.requestAdapter().catch(() => null)) ? "webgpu" : "wasm";
  try {
    opened = await openOn(device, runtime, network);
  } catch (error) {
    if (device === "wasm") throw error;
    opened = await openOn("wasm", runtime, network);
  }
  return opened;
}

async function openOn(device, runtime, network) {
  const ort = await import(`${runtime}ort.${device}.min.mjs`);
  ort.env.wasm.wasmPaths = runtime;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  const [spec, onnx] = await Promise.all([
    got(`${network}/network.json`).then((answer) => answer.json()),
    got(`${network}/network.onnx`).then((answer) => answer.arrayBuffer()),
  ]);
  const session = await ort.InferenceSession.create(onnx, { executionProviders: [device], graphOptimizationLevel: "all" });
  const each = spec.size * spec.size * 3;
  const run = async (canvases) => {
    const all = new Float32Array((canvases.length / each) * spec.bits);
    const step = most[device] * each;
    for (let start = 0; start < canvases.length; start += step) {
      const part = canvases.subarray(start, start + step);
      const pixels = new ort.Tensor("uint8", part, [part.length / each, spec.size, spec.size, 3]);
      const { logits } = await session.run({ pixels });
      all.set(logits.data, (start / each) * spec.bits);
    }
    return all;
  };
  return { network, device, reader: new Reader(spec, run) };
}

async function got(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`The network cannot be fetched (${answer.status}); reload the page.`);
  return answer;
}

addEventListener("message", async ({ data: { number, runtime, network, picture } }) => {
  try {
    const { device, reader } = await open(runtime, network);
    const began = performance.now();
    const ranked = picture ? await reader.ranked(picture) : [];
    postMessage({ number, device, ranked, milliseconds: performance.now() - began });
  } catch (error) {
    postMessage({ number, error: String(error.message ?? error) });
  }
});
