// The pose rule of verifier/network.py, step by step: see that module for what it says and why.

import { reduce, resize, rotate } from "./lib-pixels.js";

const ANGLES = Array.from({ length: 19 }, (_, i) => 5 * i - 45).filter(Boolean);
const TURNS = [-2, -1, 1, 2];
const BATCH = 128;

/** Python's round of a number that is not negative: halves to even. */
function round(value) {
  const below = Math.floor(value);
  const part = value - below;
  if (part !== 0.5) return part < 0.5 ? below : below + 1;
  return below % 2 ? below + 1 : below;
}

const roundSigned = (value) => (value < 0 ? -round(-value) : round(value));
const logCosh = (x) => Math.abs(x) + Math.log1p(Math.exp(-2 * Math.abs(x))) - Math.LN2;
const pose = (left, top, width, height, more = {}) => ({ left, top, width, height, mirrored: false, angle: 0, ...more });
const name = (one) => [one.left, one.top, one.width, one.height, one.mirrored, one.angle].join();

function window_(picture, side) {
  const longer = Math.max(picture.width, picture.height);
  const fit = (length) => Math.max(1, round((length * side) / longer));
  return [fit(picture.width), fit(picture.height)];
}

/** Of equals the earlier one first; Array.sort is stable. */
export const byConfidence = (readings) => [...readings].sort((a, b) => b.confidence - a.confidence);

/**
 * Reads pictures with one network. `run(canvases)` takes n canvases (Uint8Array, n x S x S x 3) to their raw logits
 * (n x bits); `spec` is network.json.
 */
export class Reader {
  constructor(spec, run) {
    this.spec = spec;
    this.run = run;
    this.most = Math.round(spec.clip / spec.quantum);
  }

  /** Every reading that the rule tries, the most confident first. */
  async ranked(picture, search = true) {
    const { size, poses: rule } = this.spec;
    const factor = Math.floor(Math.min(picture.width, picture.height) / (8 * size));
    const image = factor > 1 ? reduce(picture, factor) : picture;
    const [identity] = await this.readings(image, [pose(0, 0, size, size)]);
    if (!search || identity.confidence >= rule.sufficient) return [identity];
    const tried = [identity];
    tried.push(...(await this.readings(image, [pose(0, 0, size, size, { mirrored: true }), ...this.coarse(image)])));
    const crops = byConfidence(tried.filter(({ pose: at }) => this.isCrop(image, at)));
    const known = new Set(tried.map((reading) => name(reading.pose)));
    const finer = new Map();
    for (const reading of crops.slice(0, rule.top)) {
      for (const at of this.neighbours(image, reading.pose)) if (!known.has(name(at))) finer.set(name(at), at);
    }
    tried.push(...(await this.readings(image, [...finer.values()])));
    if (Math.max(...tried.map((reading) => reading.confidence)) < rule.sufficient) tried.push(...(await this.turned(image)));
    return byConfidence(tried);
  }

  async turned(image) {
    const { size, poses: rule } = this.spec;
    const angles = rule.angles ?? ANGLES;
    const whole = (angle) => pose(0, 0, size, size, { angle });
    const turned = await this.readings(image, angles.map(whole));
    const known = new Set([0, ...angles]);
    const best = byConfidence(turned).slice(0, rule.top);
    const finer = new Set(best.flatMap((reading) => TURNS.map((change) => reading.pose.angle + change)));
    const more = [...finer].filter((angle) => !known.has(angle)).map(whole);
    return [...turned, ...(await this.readings(image, more))];
  }

  coarse(image) {
    const { size, poses: rule } = this.spec;
    const found = [];
    for (const side of rule.sides) {
      const [width, height] = window_(image, side);
      for (let top = 0; top <= size - height; top += rule.stride) {
        for (let left = 0; left <= size - width; left += rule.stride) found.push(pose(left, top, width, height));
      }
    }
    return found.filter((at) => at.left || at.top || at.width !== size || at.height !== size);
  }

  *neighbours(image, at) {
    const { size, poses: rule } = this.spec;
    for (let more = -rule.refine; more <= rule.refine; more++) {
      const side = Math.max(at.width, at.height) + more;
      if (side < 1 || side > size) continue;
      const [width, height] = window_(image, side);
      for (let down = -rule.refine; down <= rule.refine; down++) {
        for (let right = -rule.refine; right <= rule.refine; right++) {
          const [left, top] = [at.left + right, at.top + down];
          if (left >= 0 && left <= size - width && top >= 0 && top <= size - height) yield pose(left, top, width, height);
        }
      }
    }
  }

  isCrop(image, at) {
    const [width, height] = window_(image, Math.max(at.width, at.height));
    return !at.mirrored && at.width === width && at.height === height;
  }

  async readings(image, poses) {
    const found = [];
    for (let start = 0; start < poses.length; start += BATCH) {
      const batch = poses.slice(start, start + BATCH);
      const raw = await this.run(this.canvases(image, batch));
      const { bits } = this.spec;
      batch.forEach((at, i) => found.push(this.reading(raw.subarray(i * bits, (i + 1) * bits), at)));
    }
    return found;
  }

  reading(raw, at) {
    const { quantum } = this.spec;
    const logits = Array.from(raw, (value) => {
      if (!Number.isFinite(value)) throw new Error("The network gave values that are not numbers.");
      return roundSigned(Math.min(Math.max(value, -this.spec.clip), this.spec.clip) / quantum);
    });
    const confidence = logits.reduce((sum, value) => sum + logCosh(value * quantum), 0) / logits.length;
    return { logits, pose: at, confidence };
  }

  canvases(image, poses) {
    const { size, fill, resample } = this.spec;
    const each = size * size * 3;
    const all = new Uint8Array(poses.length * each).fill(fill);
    const windows = new Map();
    poses.forEach((at, i) => {
      const shape = `${at.width} ${at.height}`;
      if (!windows.has(shape)) windows.set(shape, resize(image, at.width, at.height, resample));
      const { data } = windows.get(shape);
      const canvas = all.subarray(i * each, (i + 1) * each);
      for (let y = 0; y < at.height; y++) {
        const row = data.subarray(y * at.width * 3, (y + 1) * at.width * 3);
        const to = ((at.top + y) * size + at.left) * 3;
        if (!at.mirrored) canvas.set(row, to);
        else for (let x = 0; x < at.width; x++) canvas.set(row.subarray((at.width - 1 - x) * 3, (at.width - x) * 3), to + x * 3);
      }
      if (at.angle) canvas.set(rotate({ width: size, height: size, data: canvas }, at.angle, fill).data);
    });
    return all;
  }
}
