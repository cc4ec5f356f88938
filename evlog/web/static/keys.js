// The keyboard. A view registers what its keys do; `?` lists them all.

import {find, make} from "./dom.js";
import {here} from "./route.js";

const KEYS = [
  ["1 2 3 4", "Log, streams, subscriptions, store"],
  ["/", "Search: the text, or the names of streams"],
  ["j k", "Next, previous line (also ↓ ↑)"],
  ["Enter", "Open the line"],
  ["Esc", "Close the event, leave a field, stop a search"],
  ["n p", "Next page, previous page: older and newer events"],
  ["Home End", "The newest, the oldest events"],
  ["[ ]", "Previous, next event of the same stream"],
  ["f", "Follow new events, or pause"],
  ["x", "Remove all filters"],
  ["v", "Check the store quickly"],
  ["?", "These keys"],
];
const NAMES = {ArrowDown: "j", ArrowUp: "k"};
const actions = {};
const dialog = find("keys");

// Register actions of a view, by key; those of "" work in every view.
export function bind(view, keys) {
  actions[view] = {...actions[view], ...keys};
}

export function showKeys() {
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

export function begin() {
  const rows = KEYS.map(([keys, meaning]) =>
    make("tr", {}, make("td", {}, ...keys.split(" ").flatMap((key) => [make("kbd", {}, key), " "])), make("td", {}, meaning)));
  dialog.append(make("h2", {}, "Keys"), make("table", {}, make("tbody", {}, ...rows)), make("button", {type: "button", onclick: () => dialog.close()}, "Close"));
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  find("ask").addEventListener("click", showKeys);
  document.addEventListener("keydown", press);
}

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || dialog.open) return;
  const typing = event.target.matches("input:not([type=submit]), textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const key = NAMES[event.key] ?? event.key;
  const action = actions[here().view]?.[key] ?? actions[""][key];
  if (action === undefined) return;
  event.preventDefault();
  action();
}

// Move the focus from line to line in a list; return the line that has it now.
export function step(list, by) {
  const lines = [...list.querySelectorAll("a.line")];
  const current = document.activeElement?.closest?.("a.line") ?? list.querySelector("a.line[aria-current=true]");
  const at = lines.indexOf(current);
  const next = lines[at < 0 ? (by > 0 ? 0 : lines.length - 1) : Math.min(lines.length - 1, Math.max(0, at + by))];
  next?.focus();
  return next;
}
