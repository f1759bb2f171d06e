// What every page of the console runs.

import htmx from "htmx.org";
import { localTimes } from "./lib-times.js";
import { watchForms } from "./lib-session.js";
import { passkeys } from "./lib-passkeys.js";

window.htmx = htmx;

export function announce(text) {
  const place = document.getElementById("announcer");
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}

// --- theme -------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");

document.querySelector("[data-theme-switch]")?.addEventListener("click", () => {
  const chosen = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  localStorage.setItem("theme", chosen);
  announce(`The ${chosen} theme is on.`);
  document.dispatchEvent(new CustomEvent("theme"));
});
dark.addEventListener("change", () => document.dispatchEvent(new CustomEvent("theme")));

// --- small behaviours, by attribute ------------------------------------------------------------------------

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button, a");
  if (!button) return;
  if (button.dataset.opens) open(document.getElementById(button.dataset.opens));
  if ("closes" in button.dataset) button.closest("dialog")?.close();
  if (button.dataset.toggles) toggle(button);
  if ("print" in button.dataset) print();
  if (button.dataset.copies !== undefined) {
    await navigator.clipboard.writeText(button.dataset.copies);
    announce("Copied.");
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  }
});

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.account[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.account[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

function open(dialog) {
  dialog.showModal();
  (dialog.querySelector("[aria-invalid], input:not([type=hidden]), textarea, select") ?? dialog.querySelector("button"))?.focus();
}

function toggle(button) {
  const target = document.getElementById(button.dataset.toggles);
  const shown = target.classList.toggle("open");
  button.setAttribute("aria-expanded", String(shown));
}

// --- what a page, or a part that htmx brought, needs ---------------------------------------------------------

/** Radio buttons with `data-shows` show the part they name and hide those of the others. */
function choices(root) {
  const all = [...root.querySelectorAll("input[type=radio][data-shows]")];
  const update = () => {
    for (const radio of all) document.getElementById(radio.dataset.shows).hidden = !radio.checked;
  };
  for (const radio of all) radio.addEventListener("change", update);
  update();
}

/** In a narrow window rows are cards, whose cells say which column they are. */
function labels(root) {
  for (const table of root.querySelectorAll("table.rows")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, column) => (cell.dataset.label = names[column] ?? ""));
    }
  }
}

async function prepare(root) {
  localTimes(root);
  labels(root);
  choices(root);
  for (const dialog of root.querySelectorAll("dialog[data-open]")) open(dialog);
  if (root.querySelector("[data-chart]")) (await import("./lib-charts.js")).charts(root);
  if (root.querySelector("[data-events]")) (await import("./lib-jobs.js")).jobs(root);
  if (root.querySelector("[data-upload]")) (await import("./lib-uploads.js")).uploads(root);
  if (root.querySelector("[data-proof]")) (await import("./lib-proofs.js")).proofs(root);
}

document.addEventListener("htmx:load", (event) => {
  if (event.detail.elt !== document.body) prepare(event.detail.elt);
});
watchForms();
passkeys();
prepare(document);
document.querySelector("main [aria-invalid=true]")?.focus();
