// Named subscriptions: how far each is, and the events that it gave up. Asked for again while it is looked at.

import {age, ask, count, duration, exact, find, make, many, visible} from "./dom.js";
import {here, link, replace} from "./route.js";
import * as keys from "./keys.js";

const SECONDS = 2;
const box = find("subscriptions");
let timer = null;
let drawn = "";

export function show() {
  clearInterval(timer);
  timer = setInterval(refresh, SECONDS * 1000);
  drawn = "";
  refresh();
}

export function hide() {
  clearInterval(timer);
  box.replaceChildren();
}

async function refresh() {
  if (document.hidden) return;
  try {
    const {subscriptions, head} = await ask("subscriptions");
    const open = here().open;
    const parked = subscriptions.some((each) => each.name === open) ? await ask("parked", {name: open}) : null;
    if (here().view !== "subscriptions") return;
    find("subscriptions-note").replaceChildren(...(subscriptions.length ? [] : ["No named subscriptions. ",
      make("code", {}, "evlog tail --name NAME"), " and ", make("code", {}, "store.subscribe(NAME)"), " begin one."]));
    const key = JSON.stringify([subscriptions, parked, head, open, Math.floor(Date.now() / 10000)]);
    if (key === drawn) return;
    drawn = key;
    const focused = document.activeElement?.dataset?.name;
    box.replaceChildren(...subscriptions.map((each) => card(each, head, each.name === open ? parked : null)));
    if (focused) box.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
  } catch (error) {
    find("subscriptions-note").textContent = error.message;
  }
}

function card(each, head, parked) {
  const done = head ? each.position / head : 1;
  const part = make("i");
  part.style.width = `${100 * done}%`;
  const bar = make("div", {className: each.lag_events ? "bar late" : "bar", title: `${count(each.position)} of ${count(head)}`}, part);
  const state = each.damage ? ["damaged", "bad"] : each.running ? ["running", "good"] : each.lag_events ? ["stopped", "warn"] : ["up to date", "good"];
  const toggle = each.parked
    ? make("button", {type: "button", className: "button bad", "data-name": each.name, "aria-expanded": parked !== null, onclick: () => replace({view: "subscriptions", open: parked ? undefined : each.name})}, `${count(each.parked)} parked`)
    : make("span", {className: "muted"}, "none parked");
  return make("article", {},
    make("header", {}, make("h2", {}, visible(each.name)), make("span", {className: `state ${state[1]}`}, state[0]), toggle),
    bar,
    make("p", {},
      each.lag_events ? make("b", {}, `${many(each.lag_events, "position")} behind`) : make("b", {}, "Nothing to do"),
      each.lag_events ? `, the first of them ${duration(each.lag_seconds)} old` : "",
      ` · at position ${count(each.position)} · selects ${selected(each.filter)} · `,
      make("span", {title: exact(each.saved_us)}, `saved ${age(each.saved_us)}`)),
    each.damage ? make("p", {className: "problem"}, each.damage) : "",
    parked ? parkedOf(parked) : "");
}

function selected(filter) {
  const words = [
    filter.stream && `stream ${filter.stream}`,
    filter.category && `category ${filter.category}`,
    filter.types && `types ${filter.types.join(", ")}`,
    filter.tags && `tags ${filter.tags.join(", ")}`,
    filter.metadata && `metadata ${Object.entries(filter.metadata).map((pair) => pair.join("=")).join(", ")}`,
    filter.grep && `text ${filter.grep.join(", ")}`,
  ].filter(Boolean);
  return visible(words.join(" and ") || "all events");
}

function parkedOf({parked, count: all}) {
  const items = parked.map((each) => make("li", {},
    make("p", {}, make("a", {href: link({view: "log", stream: each.stream, event: each.position})}, `${visible(each.type)} in ${visible(each.stream)}, version ${count(each.version)}`),
      ` · position ${count(each.position)} · ${many(each.attempts, "attempt")} · `, make("span", {title: exact(each.time_us)}, age(each.time_us))),
    make("pre", {}, visible(each.error))));
  const rest = all > parked.length ? make("p", {className: "muted"}, `${many(all - parked.length, "more event")} not shown.`) : "";
  return make("div", {}, make("ol", {className: "parked"}, ...items), rest);
}

export function begin() {
  keys.bind("subscriptions", {});
}
