// Pillow's resampling for 8-bit RGB, to the last bit, since readings must be those of the command line: its resize
// (src/libImaging/Resample.c), reduce (Reduce.c) and rotate (Geometry.c, bicubic). A picture is
// { width, height, data }, data a Uint8Array of width * height * 3.

const BITS = 22;
const HALF = 1 << (BITS - 1);
const A = -0.5;

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    at: (t) => {
      const x = Math.abs(t);
      if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * A : 0;
    },
  },
  lanczos: { support: 3, at: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** For each place of the output: where its window of the input begins, and its weights in units of 2^-22. */
function weights(from, to, filter) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const found = [];
  for (let place = 0; place < to; place++) {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const exact = [];
    let sum = 0;
    for (let i = first; i < last; i++) {
      const weight = filter.at((i - centre + 0.5) * (1 / stretch));
      exact.push(weight);
      sum += weight;
    }
    const whole = exact.map((weight) => {
      const part = sum === 0 ? weight : weight / sum;
      return Math.trunc((part < 0 ? -0.5 : 0.5) + part * (1 << BITS));
    });
    found.push({ first, whole });
  }
  return found;
}

const clip = (value) => (value < 0 ? 0 : value > 255 ? 255 : value);

/** One pass over lines of `from` pixels that become `to`; `step` apart within a line, `lines` of them `skip` apart. */
function pass(data, out, plan, lines, step, skip, outStep, outSkip) {
  for (let line = 0; line < lines; line++) {
    const base = line * skip;
    for (let place = 0; place < plan.length; place++) {
      const { first, whole } = plan[place];
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let at = base + first * step;
      for (let i = 0; i < whole.length; i++, at += step) {
        const weight = whole[i];
        red += data[at] * weight;
        green += data[at + 1] * weight;
        blue += data[at + 2] * weight;
      }
      const to = line * outSkip + place * outStep;
      out[to] = clip(red >> BITS);
      out[to + 1] = clip(green >> BITS);
      out[to + 2] = clip(blue >> BITS);
    }
  }
}

/** Image.resize((width, height), filter). */
export function resize(picture, width, height, name) {
  const filter = FILTERS[name];
  let { data } = picture;
  if (width !== picture.width) {
    const out = new Uint8Array(width * picture.height * 3);
    const plan = weights(picture.width, width, filter);
    pass(data, out, plan, picture.height, 3, picture.width * 3, 3, width * 3);
    data = out;
  }
  if (height !== picture.height) {
    const out = new Uint8Array(width * height * 3);
    const plan = weights(picture.height, height, filter);
    pass(data, out, plan, width, width * 3, 3, width * 3, 3);
    data = out;
  }
  return { width, height, data };
}

/** Image.reduce(factor): means over whole blocks, and over what is left of them at the right and lower edge. */
export function reduce(picture, factor) {
  const width = Math.ceil(picture.width / factor);
  const height = Math.ceil(picture.height / factor);
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const bottom = Math.min((y + 1) * factor, picture.height);
    for (let x = 0; x < width; x++) {
      const right = Math.min((x + 1) * factor, picture.width);
      const count = (bottom - y * factor) * (right - x * factor);
      const multiplier = Math.trunc(Math.fround(2 ** 32 / (256 * count)));
      for (let colour = 0; colour < 3; colour++) {
        let sum = Math.trunc(count / 2);
        for (let v = y * factor; v < bottom; v++) {
          let at = (v * picture.width + x * factor) * 3 + colour;
          for (let u = x * factor; u < right; u++, at += 3) sum += picture.data[at];
        }
        data[(y * width + x) * 3 + colour] = Math.floor((sum * multiplier) / 2 ** 24);
      }
    }
  }
  return { width, height, data };
}

const within = (value, size) => (value < 0 ? 0 : value >= size ? size - 1 : value);
const cubic = (a, b, c, d, t) => b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a - c + d)));
const rounded = (value) => Number(value.toFixed(15));

/** Image.rotate(angle, BICUBIC, fillcolor=(fill, fill, fill)) of a square or other picture, about its centre. */
export function rotate(picture, angle, fill) {
  const { width, height, data } = picture;
  const turn = (-(((angle % 360) + 360) % 360) * Math.PI) / 180;
  const [cos, sin] = [rounded(Math.cos(turn)), rounded(Math.sin(turn))];
  const [right, down] = [width / 2, height / 2];
  const shiftX = cos * -right + sin * -down + right;
  const shiftY = -sin * -right + cos * -down + down;
  const out = new Uint8Array(data.length).fill(fill);
  for (let v = 0; v < height; v++) {
    for (let u = 0; u < width; u++) {
      const x = cos * (u + 0.5) + sin * (v + 0.5) + shiftX;
      const y = -sin * (u + 0.5) + cos * (v + 0.5) + shiftY;
      if (x < 0 || x >= width || y < 0 || y >= height) continue;
      const left = Math.floor(x - 0.5);
      const top = Math.floor(y - 0.5);
      const [dx, dy] = [x - 0.5 - left, y - 0.5 - top];
      const columns = [-1, 0, 1, 2].map((i) => within(left + i, width) * 3);
      for (let colour = 0; colour < 3; colour++) {
        const rows = [];
        for (let i = -1; i < 3; i++) {
          const row = top + i;
          if (i > -1 && (row < 0 || row >= height)) {
            rows.push(rows.at(-1));
            continue;
          }
          const base = within(row, height) * width * 3 + colour;
          const [a, b, c, d] = columns.map((column) => data[base + column]);
          rows.push(cubic(a, b, c, d, dx));
        }
        out[(v * width + u) * 3 + colour] = clip(Math.trunc(cubic(...rows, dy)));
      }
    }
  }
  return { width, height, data: out };
}
