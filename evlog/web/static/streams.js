// The streams by name, a page at a time, or those whose names begin with a text.

import {age, ask, category, count, exact, find, hue, isAbort, make, visible} from "./dom.js";
import {go, here, link} from "./route.js";
import * as keys from "./keys.js";

const PAGE = 100;
const list = find("streams");
const field = find("stream-search").elements.prefix;
let shown = null;
let asking = null;
let found = null;

export async function show(place) {
  const key = link({...place, view: "streams"});
  if (document.activeElement !== field) field.value = place.prefix ?? "";
  if (key === shown) return;
  shown = key;
  asking?.abort();
  const mine = (asking = new AbortController());
  const slow = setTimeout(() => note("Collecting the names of all streams: only the first time."), 300);
  try {
    found = await ask("streams", {prefix: place.prefix, after: place.after, before: place.before, limit: PAGE}, mine.signal);
    draw(place);
  } catch (error) {
    if (isAbort(error)) return;
    shown = found = null;
    list.replaceChildren();
    note(error.message);
  } finally {
    clearTimeout(slow);
  }
}

export function hide() {
  shown = null;  // it is read again the next time
  asking?.abort();
}

function note(text) {
  find("streams-note").textContent = text;
}

function draw(place) {
  list.replaceChildren(...found.streams.map((row) => make("li", {}, make("a", {className: "stream line", href: link({view: "log", stream: row.stream})},
    make("span", {className: "name", "data-hue": hue(category(row.stream))}, make("bdi", {}, visible(row.stream))),
    make("span", {className: "number"}, count(row.version)),
    make("span", {className: "type"}, row.type === null ? make("em", {}, "no visible events") : make("bdi", {}, visible(row.type))),
    make("span", {className: "time"}, row.time_us === null ? "" : make("time", {title: exact(row.time_us)}, age(row.time_us)))))));
  list.closest(".scroll").scrollTop = 0;
  const chips = found.categories.map(([name, streams]) => make("a", {className: "chip", href: link({view: "streams", prefix: name}), "aria-current": place.prefix === name ? "true" : undefined},
    make("span", {className: "name", "data-hue": hue(name)}, visible(name)), " ", make("small", {}, count(streams))));
  find("categories").replaceChildren(...chips);
  note(found.count ? "" : place.prefix ? "No stream has a name that begins with this." : "No streams yet.");
  find("streams-range").textContent = found.count ? `${count(found.first)} – ${count(found.last)} of ${count(found.count)}` : "";
  find("streams-first").disabled = find("streams-back").disabled = found.first <= 1;
  find("streams-on").disabled = found.last >= found.count;
}

const turns = {
  "streams-first": () => go({view: "streams", prefix: here().prefix}),
  "streams-back": () => go({view: "streams", prefix: here().prefix, before: found.streams[0]?.stream}),
  "streams-on": () => go({view: "streams", prefix: here().prefix, after: found.streams.at(-1)?.stream}),
};

function turn(name) {
  if (found && !find(name).disabled) turns[name]();
}

export function begin() {
  let typing = null;
  const search = () => {
    clearTimeout(typing);
    go({view: "streams", prefix: field.value.trim()});
  };
  find("stream-search").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  field.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 200);
  });
  for (const name of Object.keys(turns)) find(name).addEventListener("click", () => turn(name));
  keys.bind("streams", {
    "/": () => field.focus(),
    j: () => keys.step(list, 1),
    k: () => keys.step(list, -1),
    n: () => turn("streams-on"),
    p: () => turn("streams-back"),
    Home: () => turn("streams-first"),
    x: () => go({view: "streams"}),
  });
}
