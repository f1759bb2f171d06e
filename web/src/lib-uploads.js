// Weights on their way in: each file is sent on its own, with its progress; one that breaks off is sent again, and
// those that arrived are not. The form goes out when all are there.

import { signedIn } from "./lib-session.js";

const PART = /^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$/;
const TRIES = 5;

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function chosen(form) {
  const folder = [...form.querySelector("#f-folder-files").files].map((file) => [file.webkitRelativePath.split("/").slice(1).join("/"), file]);
  const files = [...form.querySelector("#f-files").files].map((file) => [file.name, file]);
  return [...folder, ...files].filter(([path]) => !path.split("/").some((part) => part.startsWith(".")));
}

function send(url, file, csrf, seen) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.addEventListener("progress", (event) => seen(event.loaded));
    request.addEventListener("load", () => {
      if (request.status === 201) return resolve();
      let said = {};
      try {
        said = JSON.parse(request.responseText);
      } catch {}
      const error = new Error(`${said.detail ?? `The registry answered ${request.status}.`} ${said.hint ?? ""}`);
      error.final = request.status >= 400 && request.status < 500 && ![401, 408, 429].includes(request.status);
      reject(error);
    });
    request.addEventListener("error", () => reject(new Error("The connection was lost.")));
    request.send(file);
  });
}

async function arrived(name) {
  const answer = await fetch(`/api/v1/uploads/${name}`, { cache: "no-store" });
  return answer.ok ? (await answer.json()).files : {};
}

async function upload(form, files, status) {
  const name = form.dataset.upload;
  const bar = Object.assign(document.createElement("progress"), { max: files.reduce((sum, [, file]) => sum + Math.max(1, file.size), 0), value: 0 });
  bar.setAttribute("aria-label", "Files sent");
  const line = document.createElement("p");
  status.replaceChildren(bar, line);
  let csrf = await signedIn();
  const there = await arrived(name);
  let before = 0;
  for (const [number, [path, file]] of files.entries()) {
    for (let attempt = 1; there[path] !== file.size; attempt++) {
      line.textContent = `File ${number + 1} of ${files.length}: ${path}`;
      try {
        await send(`/api/v1/uploads/${name}/files/${path}`, file, csrf, (loaded) => (bar.value = before + loaded));
        there[path] = file.size;
      } catch (error) {
        if (error.final || attempt === TRIES) throw error;
        line.textContent = `${error.message} Trying ${path} again.`;
        await wait(1000 * 2 ** attempt);
        csrf = await signedIn();
      }
    }
    before += Math.max(1, file.size);
    bar.value = before;
  }
  line.textContent = `${files.length} files are there.`;
  return name;
}

function complain(status, text) {
  status.replaceChildren(Object.assign(document.createElement("p"), { className: "error", textContent: text }));
}

export function uploads(root) {
  for (const form of root.querySelectorAll("form[data-upload]")) {
    const status = form.querySelector("[data-upload-status]");
    form.addEventListener("submit", (event) => {
      const files = chosen(form);
      if (form.elements.source.value !== "upload" || !files.length) return;
      event.preventDefault();
      event.stopPropagation();
      const odd = files.find(([path]) => !path.split("/").every((part) => PART.test(part)));
      if (odd) return complain(status, `${odd[0]} cannot be sent: use letters, digits, dots and dashes in names of files.`);
      const button = form.querySelector("button[type=submit]");
      button.disabled = true;
      upload(form, files, status)
        .then((name) => {
          form.elements.upload.value = name;
          form.submit();
        })
        .catch((error) => complain(status, `${error.message} Send the form again: what arrived is kept.`))
        .finally(() => (button.disabled = false));
    });
  }
}
