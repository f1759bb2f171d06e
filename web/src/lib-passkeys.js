// Passkeys: signing in with one, and adding one to an account.

import { signedIn, session } from "./lib-session.js";

async function post(path, body, csrf) {
  const headers = { "Content-Type": "application/json" };
  if (csrf) headers["X-CSRF-Token"] = csrf;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const document = answer.status === 204 ? {} : await answer.json();
  if (!answer.ok) throw new Error(`${document.detail ?? "That did not work."} ${document.hint ?? ""}`);
  return document;
}

function say(text) {
  const place = document.getElementById("passkey-problem");
  const note = Object.assign(document.createElement("p"), { className: "note bad", textContent: text });
  place.replaceChildren(note);
}

function reason(error) {
  if (error.name === "NotAllowedError") return "No passkey was used: it was cancelled, took too long, or there is none for this registry here.";
  if (error.name === "InvalidStateError") return "This passkey is registered already.";
  return error.message;
}

async function signIn(button) {
  const { csrf_token: csrf } = await session();
  const { options } = await post("/api/v1/session/passkey/options", {}, csrf);
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
  const credential = await navigator.credentials.get({ publicKey });
  const done = await post("/api/v1/session/passkey", { credential: credential.toJSON() }, csrf);
  if (done.state === "signed-in") location.assign(button.dataset.next);
}

async function add(form) {
  const csrf = await signedIn();
  const { options } = await post("/api/v1/account/passkeys/options", {}, csrf);
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
  const credential = await navigator.credentials.create({ publicKey });
  const name = new FormData(form).get("name").trim();
  await post("/api/v1/account/passkeys", { name, credential: credential.toJSON() }, csrf);
  location.assign(form.dataset.next);
}

export function passkeys() {
  const able = "PublicKeyCredential" in window && "parseRequestOptionsFromJSON" in PublicKeyCredential;
  for (const button of document.querySelectorAll("[data-passkey]")) {
    if (!able) {
      button.hidden = true;
      continue;
    }
    button.addEventListener("click", () => signIn(button).catch((error) => say(reason(error))));
  }
  const form = document.querySelector("form[data-new-passkey]");
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!able) return say("This browser knows no passkeys.");
    add(form).catch((error) => say(reason(error)));
  });
}
