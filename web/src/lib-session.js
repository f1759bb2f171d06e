// Forms outlive sessions. Before a form is sent, the session is asked for: if it has ended, the page keeps what
// was entered and a dialog offers to sign in again in another tab; the form then goes out with the new token.

const SESSION = "/api/v1/session";
const channel = new BroadcastChannel("hallmark-session");

export async function session() {
  const answer = await fetch(SESSION, { headers: { Accept: "application/json" }, cache: "no-store" });
  return answer.ok ? answer.json() : { state: "nobody", csrf_token: null };
}

export function token() {
  return document.querySelector("input[name=csrf_token]")?.value ?? "";
}

function renew(value) {
  for (const field of document.querySelectorAll("input[name=csrf_token]")) field.value = value;
}

/** Resolves to the CSRF token of a session that holds, after a new sign-in where that is needed. */
export async function signedIn() {
  let current = await session();
  while (current.state !== "signed-in") {
    if (!(await signInAgain())) throw new Error("not signed in");
    current = await session();
  }
  renew(current.csrf_token);
  return current.csrf_token;
}

function signInAgain() {
  const dialog = document.getElementById("session-ended");
  const before = document.querySelector("dialog[open]");
  if (!dialog) return Promise.resolve(false);
  dialog.showModal();
  return new Promise((resolve) => {
    const arrived = () => dialog.close("signed-in");
    const focused = async () => (await session()).state === "signed-in" && arrived();
    channel.addEventListener("message", arrived);
    addEventListener("focus", focused);
    dialog.addEventListener(
      "close",
      () => {
        channel.removeEventListener("message", arrived);
        removeEventListener("focus", focused);
        before?.focus();
        resolve(dialog.returnValue === "signed-in");
        dialog.returnValue = "";
      },
      { once: true },
    );
  });
}

async function send(form, submitter) {
  form.setAttribute("aria-busy", "true");
  try {
    await signedIn();
  } catch {
    return form.removeAttribute("aria-busy");
  }
  if (submitter?.name) {
    const field = Object.assign(document.createElement("input"), { type: "hidden", name: submitter.name, value: submitter.value });
    form.append(field);
  }
  form.submit();
}

export function watchForms() {
  if (document.querySelector("[data-signed-in-again]")) channel.postMessage("signed-in");
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || "plain" in form.dataset || event.defaultPrevented) return;
    event.preventDefault();
    if (!form.hasAttribute("aria-busy")) send(form, event.submitter);
  });
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[aria-busy]")) form.removeAttribute("aria-busy");
  });
  document.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.verb !== "get") event.detail.headers["X-CSRF-Token"] = token();
  });
  document.addEventListener("htmx:responseError", async (event) => {
    if (event.detail.xhr.status !== 401) return;
    await signedIn();
    document.querySelector("[data-retry]")?.dispatchEvent(new Event("retry"));
  });
}
