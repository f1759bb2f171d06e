// Proofs of the ledger, checked in the reader's browser: RFC 9162 (2.1.3.2 and 2.1.4.2) over SHA-256, and the
// signed checkpoint (C2SP signed note, Ed25519), with the browser's own cryptography.

const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hex = (data) => Array.from(data, (value) => value.toString(16).padStart(2, "0")).join("");
const base64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const same = (a, b) => hex(a) === hex(b);

async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer()));
}
const leaf = (data) => sha256(Uint8Array.of(0), data);
const node = (left, right) => sha256(Uint8Array.of(1), left, right);

class Fails extends Error {}
function require(holds, message) {
  if (!holds) throw new Fails(message);
}

// Numbers of entries stay below 2^53, beyond what bit operations on numbers reach.
export async function rootOfInclusion(digest, index, size, path) {
  require(index >= 0 && index < size, "the entry lies outside the tree");
  let [fn, sn, value] = [BigInt(index), BigInt(size - 1), await leaf(digest)];
  for (const sibling of path) {
    require(sn !== 0n, "the proof is too long");
    if (fn & 1n || fn === sn) {
      value = await node(sibling, value);
      while (!(fn & 1n) && fn !== 0n) [fn, sn] = [fn >> 1n, sn >> 1n];
    } else {
      value = await node(value, sibling);
    }
    [fn, sn] = [fn >> 1n, sn >> 1n];
  }
  require(sn === 0n, "the proof is too short");
  return value;
}

export async function rootsOfGrowth(old, size, path, oldRoot) {
  if (old === size) {
    require(path.length === 0, "the proof is too long");
    return [oldRoot, oldRoot];
  }
  const hashes = [...path];
  let [fn, sn] = [BigInt(old - 1), BigInt(size - 1)];
  while (fn & 1n) [fn, sn] = [fn >> 1n, sn >> 1n];
  const first = fn === 0n ? oldRoot : hashes.shift();
  require(first, "the proof is too short");
  let [fr, sr] = [first, first];
  for (const hash of hashes) {
    require(sn !== 0n, "the proof is too long");
    if (fn & 1n || fn === sn) {
      [fr, sr] = [await node(hash, fr), await node(hash, sr)];
      while (!(fn & 1n) && fn !== 0n) [fn, sn] = [fn >> 1n, sn >> 1n];
    } else {
      sr = await node(sr, hash);
    }
    [fn, sn] = [fn >> 1n, sn >> 1n];
  }
  require(sn === 0n, "the proof is too short");
  return [fr, sr];
}

/** Whether the checkpoint says this size and root, signed by the key; null where the browser knows no Ed25519. */
async function signed(proof, origin) {
  if (!proof.checkpoint) return null;
  const cut = proof.checkpoint.lastIndexOf("\n\n");
  const text = proof.checkpoint.slice(0, cut + 1);
  const [name, size, root] = text.split("\n");
  require(name === origin && Number(size) === proof.size, "the checkpoint is of another ledger or size");
  require(same(base64(root), bytes(proof.root)), "the checkpoint has another root");
  let key;
  try {
    key = await crypto.subtle.importKey("raw", base64(proof.public_key), "Ed25519", false, ["verify"]);
  } catch {
    return null;
  }
  for (const line of proof.checkpoint.slice(cut + 2).trimEnd().split("\n")) {
    const found = line.match(/^\u2014 (\S+) (\S+)$/);
    if (!found || found[1] !== origin) continue;
    const signature = base64(found[2]).slice(4);
    if (await crypto.subtle.verify("Ed25519", key, signature, new TextEncoder().encode(text))) return true;
  }
  throw new Fails("the checkpoint is not signed by the registry's key");
}

async function check(proof, origin) {
  const path = proof.proof.map(bytes);
  const steps = [];
  if (proof.schema === "hallmark/inclusion/1") {
    const root = await rootOfInclusion(bytes(proof.digest), proof.index, proof.size, path);
    require(same(root, bytes(proof.root)), "the hashes lead to another root");
    steps.push(`${path.length} hashes lead from this record to the root of ${proof.size} entries.`);
  } else {
    const [before, after] = await rootsOfGrowth(proof.old_size, proof.size, path, bytes(proof.old_root));
    require(same(before, bytes(proof.old_root)), "the hashes do not give the earlier root");
    require(same(after, bytes(proof.root)), "the hashes do not give the present root");
    steps.push(`The ${proof.old_size} entries of then are the first of the ${proof.size} of now.`);
  }
  const held = await signed(proof, origin);
  if (held) steps.push("The registry's key signed that root.");
  else if (proof.checkpoint) steps.push("This browser knows no Ed25519, so the signature under the root was not checked here; verifier checks it.");
  else steps.push("A tree of just this size was never signed: compare the root with one you trust.");
  return [steps, held];
}

function show(place, kind, title, lines) {
  const note = Object.assign(document.createElement("div"), { className: `note ${kind}` });
  const box = document.createElement("div");
  const list = document.createElement("ul");
  for (const line of lines) list.append(Object.assign(document.createElement("li"), { textContent: line }));
  box.append(Object.assign(document.createElement("p"), { textContent: title }), list);
  note.append(box);
  place.replaceChildren(note);
}

export function proofs(root) {
  for (const element of root.querySelectorAll("[data-proof]")) {
    const place = element.querySelector("[data-proof-result]");
    check(JSON.parse(element.dataset.proof), element.dataset.origin)
      .then(([steps, held]) => show(place, held ? "good" : "warn", held ? "Your browser checked this proof: it holds." : "The hashes hold.", steps))
      .catch((error) => show(place, "bad", "This proof does not hold.", [error.message]));
  }
}
