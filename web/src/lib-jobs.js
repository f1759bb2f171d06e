// Jobs, followed live by server-sent events. When one ends, its page is loaded again to show what it left.

import { localTimes } from "./lib-times.js";

const SAY_EVERY = 10_000;

function follow(element) {
  const part = (name) => element.querySelector(`[data-job-${name}]`);
  const log = document.querySelector("[data-job-log]");
  const last = log?.lastElementChild?.dataset.number;
  const source = new EventSource(`${element.dataset.events}?seconds=300`);
  let [said, seen] = [0, Number(last ?? 0)];

  source.addEventListener("progress", (event) => {
    const { state, progress, cancelling } = JSON.parse(event.data);
    const [bar, badge] = [part("bar"), part("state").firstElementChild];
    badge.textContent = cancelling ? "stopping" : state;
    badge.className = `badge ${state === "running" ? "info" : ""}`;
    if (progress.total) [bar.max, bar.value] = [progress.total, progress.done];
    else bar.removeAttribute("value");
    const counted = progress.total ? `: ${progress.done.toLocaleString()} of ${progress.total.toLocaleString()}` : "";
    part("stage").textContent = (progress.stage || (state === "queued" ? "Waits for a worker." : "Begins.")) + counted;
    if (Date.now() - said > SAY_EVERY) {
      said = Date.now();
      part("said").textContent = part("stage").textContent;
    }
  });
  source.addEventListener("log", (event) => {
    const number = Number(event.lastEventId);
    if (!log || number <= seen) return;
    seen = number;
    const { at, text } = JSON.parse(event.data);
    const line = Object.assign(document.createElement("li"), { textContent: ` ${text}` });
    line.prepend(Object.assign(document.createElement("time"), { dateTime: at, textContent: at }));
    localTimes(line);
    log.append(line);
    log.scrollTop = log.scrollHeight;
  });
  source.addEventListener("end", () => {
    source.close();
    // Never from under somebody who is filling a form in.
    if (document.querySelector("dialog[open]") || document.activeElement?.matches("input, textarea, select")) {
      part("stage").textContent = "It has ended. Load this page again to see what it left.";
    } else location.reload();
  });
  addEventListener("pagehide", () => source.close());
}

export function jobs(root) {
  root.querySelectorAll("[data-events]").forEach(follow);
}
