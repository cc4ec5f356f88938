// News of the log while the page can be seen: where it ends. A hidden page listens to nothing.

import {find} from "./dom.js";

const listeners = new Set();
const button = find("live");
let source = null;
export let following = true;

export function onNews(listener) {
  listeners.add(listener);
}

export function follow(wanted) {
  following = wanted;
  show();
  if (following) listeners.forEach((listener) => listener());
}

function show(state = source && source.readyState === EventSource.OPEN ? "open" : "connecting") {
  button.dataset.state = state === "open" ? (following ? "live" : "paused") : state;
  button.setAttribute("aria-pressed", following);
  const words = {live: "Live", paused: "Paused", connecting: "Connecting", lost: "Disconnected"};
  button.querySelector("span").textContent = words[button.dataset.state];
}

export function complain(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

function connect() {
  source = new EventSource("live");
  source.addEventListener("open", () => {
    show("open");
  });
  source.addEventListener("head", () => {
    complain("");
    listeners.forEach((listener) => listener());
  });
  source.addEventListener("problem", (event) => complain(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    show("lost");
    if (find("trouble").hidden) complain("evlog does not answer. If it has ended, start it again and open the new address.");
    if (source.readyState === EventSource.CLOSED) setTimeout(reconnect, 2000);
  });
  show();
}

function reconnect() {
  if (source !== null && source.readyState === EventSource.CLOSED && !document.hidden) connect();
}

export function begin() {
  button.addEventListener("click", () => follow(!following));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null) {
      connect();
    }
  });
  if (!document.hidden) connect();
}
