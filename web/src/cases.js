// A case: files are sent one by one, so that what arrived stays; findings appear as they are made.

import { announce } from "./console.js";
import { signedIn } from "./lib-session.js";

const TRIES = 4;
const POLL = 5_000;
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// --- findings ------------------------------------------------------------------------------------------------

const list = document.getElementById("findings");
let [busy, again] = [false, false];

/** Bring in what is new or changed, and leave alone what somebody may be reading. */
async function refresh() {
  if (busy) return (again = true);
  busy = true;
  try {
    const answer = await fetch(list.dataset.part, { headers: { "HX-Request": "true" } });
    if (answer.ok) {
      const fresh = document.createElement("template");
      fresh.innerHTML = await answer.text();
      let before = null;
      for (const article of fresh.content.querySelectorAll("article.finding")) {
        const known = document.getElementById(article.id);
        if (!known) {
          before ? before.after(article) : list.prepend(article);
        } else if (known.dataset.state !== article.dataset.state) {
          known.replaceWith(article);
          announce(article.querySelector("h3").textContent + ": " + (article.querySelector("strong")?.textContent ?? "failed"));
        }
        before = document.getElementById(article.id);
        before.dispatchEvent(new CustomEvent("htmx:load", { bubbles: true, detail: { elt: before } }));
      }
      document.getElementById("no-findings")?.toggleAttribute("hidden", list.children.length > 0);
    }
  } finally {
    busy = false;
  }
  if (again) {
    again = false;
    refresh();
  }
}

if (list) {
  const source = new EventSource(`${list.dataset.follow}?seen=${list.dataset.mark}`);
  let polling;
  source.addEventListener("change", refresh);
  source.addEventListener("error", () => {
    // The browser comes back by itself, unless it was refused.
    if (source.readyState === EventSource.CLOSED) polling ??= setInterval(refresh, POLL);
  });
  addEventListener("pagehide", () => source.close());
}

// --- files ---------------------------------------------------------------------------------------------------

const form = document.getElementById("add");
const received = document.getElementById("received");

function send(file, csrf, seen) {
  return new Promise((resolve, reject) => {
    const body = new FormData();
    body.append("files", file);
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("HX-Request", "true");
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.addEventListener("progress", (event) => seen(event.loaded));
    request.addEventListener("error", () => reject(new Error("The connection was lost.")));
    request.addEventListener("load", () => {
      if (request.status === 200) return resolve(JSON.parse(request.responseText).files);
      const said = request.status === 413 ? "It is too large." : new DOMParser().parseFromString(request.responseText, "text/html").querySelector("main")?.innerText.trim();
      const error = new Error(said || `The registry answered ${request.status}.`);
      error.final = request.status >= 400 && request.status < 500 && ![401, 408, 429].includes(request.status);
      reject(error);
    });
    request.send(body);
  });
}

async function sendPatiently(file, seen, line) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await send(file, await signedIn(), seen);
    } catch (error) {
      if (error.final || attempt === TRIES) throw error;
      line.textContent = `${error.message} Trying ${file.name} again.`;
      await wait(1000 * 2 ** attempt);
    }
  }
}

function complaint(name, text) {
  return Object.assign(document.createElement("li"), { className: "error", textContent: `${name}: ${text}` });
}

async function add(files) {
  const bar = Object.assign(document.createElement("progress"), { max: files.reduce((sum, file) => sum + Math.max(1, file.size), 0), value: 0 });
  bar.setAttribute("aria-label", "Files sent");
  const [line, wrong] = [document.createElement("p"), document.createElement("ul")];
  wrong.className = "plain-list";
  received.replaceChildren(bar, line, wrong);
  const largest = Number(form.dataset.largest);
  let [before, added] = [0, 0];
  for (const [number, file] of files.entries()) {
    line.textContent = `File ${number + 1} of ${files.length}: ${file.name}`;
    try {
      if (file.size > largest) throw new Error(`It has ${Math.round(file.size / 2 ** 20)} MB; ${largest / 2 ** 20} MB are the most. Send it in parts.`);
      for (const each of await sendPatiently(file, (loaded) => (bar.value = before + loaded), line)) {
        if (each.error) wrong.append(complaint(each.name, each.error));
        else added++;
      }
    } catch (error) {
      wrong.append(complaint(file.name, error.message));
    }
    bar.value = before += Math.max(1, file.size);
  }
  bar.remove();
  line.textContent = `${added} image${added === 1 ? " was" : "s were"} added.`;
  if (!added) return;
  const body = new URLSearchParams({ csrf_token: await signedIn() });
  await fetch(form.dataset.check, { method: "POST", body, redirect: "manual" });
  refresh();
}

async function take(files) {
  if (!files.length || form.hasAttribute("aria-busy")) return;
  form.setAttribute("aria-busy", "true");
  try {
    await add([...files]);
  } finally {
    form.removeAttribute("aria-busy");
    form.elements.files.value = "";
  }
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    event.stopPropagation();
    take(form.elements.files.files);
  });
  for (const kind of ["dragenter", "dragover"]) {
    form.addEventListener(kind, (event) => {
      event.preventDefault();
      form.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) form.addEventListener(kind, () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}
