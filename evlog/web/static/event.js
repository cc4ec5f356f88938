// One event beside the list: its data and metadata, and its story, the tree of what caused it and what it caused.

import {age, ask, bytes, category, clock, count, date, duration, exact, find, hue, isAbort, make, utc, visible} from "./dom.js";
import {here, go, link} from "./route.js";
import {pretty} from "./json.js";
import * as keys from "./keys.js";
import {mark} from "./log.js";

const MOST = 500;  // events of a story
const pane = find("event");
let open = null;     // the position of the event that is shown
let event = null;    // the event
let asking = null;   // the AbortController of the request for it
let telling = null;  // the EventSource of its story

export async function show(place) {
  if (place.event === undefined || place.view !== "log") {
    close();
    return;
  }
  if (place.event === open) return;
  close();
  open = place.event;
  const mine = (asking = new AbortController());
  try {
    const name = /^\d+$/.test(open) ? {position: open} : {id: open};
    event = await ask("event", name, mine.signal);
  } catch (error) {
    if (isAbort(error)) return;
    pane.replaceChildren(closer(), make("p", {className: "problem"}, error.message));
    pane.hidden = false;
    return;
  }
  if (open !== String(event.position)) {  // it was asked for by its id
    open = String(event.position);
    mark({...place, event: open});
  }
  draw();
  tell(false);
}

function close() {
  asking?.abort();
  telling?.close();
  open = event = telling = null;
  if (!pane.hidden) {
    pane.hidden = true;
    pane.replaceChildren();
  }
}

const at = (position) => link({...here(), view: "log", event: position});
const only = (filters) => link({view: "log", ...filters});

function closer() {
  return make("a", {className: "close", href: link({...here(), event: undefined}), title: "Close (Esc)", "aria-label": "Close"}, "×");
}

function stepper(label, position, title) {
  return position ? make("a", {className: "button", href: at(position), title}, label) : make("span", {className: "button off"}, label);
}

function draw() {
  const isJson = event.content_type === "json";
  const cut = event.shown_bytes < event.bytes;
  const tags = event.tags.map((tag) => make("a", {className: "tag", href: only({tag}), title: "All events with this tag"}, visible(tag)));
  const facts = [
    ["Stream", make("a", {href: only({stream: event.stream}), title: "All events of this stream", "data-hue": hue(category(event.stream)), className: "name"}, make("bdi", {}, visible(event.stream)))],
    ["Version", count(event.version)],
    ["Position", count(event.position)],
    ["Time", make("time", {dateTime: utc(event.time_us), title: utc(event.time_us)}, `${exact(event.time_us)}, ${age(event.time_us)}`)],
    ["Id", make("code", {}, event.id)],
    tags.length && ["Tags", make("span", {}, ...tags)],
    event.correlation && ["Correlation", make("a", {href: only({correlation: event.correlation}), title: "All events with this correlation id"}, make("code", {}, visible(event.correlation)))],
    event.cause && ["Cause", make("a", {href: at(event.cause)}, make("code", {}, visible(event.cause)))],
  ].filter(Boolean);
  pane.replaceChildren(
    make("header", {},
      make("h2", {}, make("bdi", {}, visible(event.type))),
      stepper("‹", event.previous, "Previous event of the stream ([)"),
      stepper("›", event.next, "Next event of the stream (])"),
      closer()),
    make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("h3", {}, "Data",
      make("small", {}, `${event.content_type}, ${bytes(event.bytes)}`),
      event.redacted ? null : make("a", {className: "button", href: `data?position=${event.position}`, download: ""}, "Download"),
      event.redacted || cut ? null : copier()),
    event.redacted ? make("p", {className: "problem"}, "The content of this event was redacted.") : make("pre", {className: event.content_type === "binary" ? "dump" : ""}, isJson ? pretty(event.data) : visible(event.data)),
    cut ? make("p", {className: "muted"}, `The first ${bytes(event.shown_bytes)} are shown; the download has all of it.`) : "",
    ...(event.metadata === "{}" ? [] : [make("h3", {}, "Metadata"), make("pre", {}, pretty(event.metadata))]),
    make("div", {id: "story"}));
  pane.hidden = false;
  pane.scrollTop = 0;
}

function copier() {
  const button = make("button", {type: "button", className: "button"}, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(event.data);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser refused";
    }
  });
  return button;
}

// --- the story

function tell(toTheEnd) {
  const mine = open;
  const found = new Map();
  telling?.close();
  const source = (telling = new EventSource(`story?position=${mine}${toTheEnd ? "&all=1" : ""}`));
  const on = (name, action) => source.addEventListener(name, (message) => {
    if (open === mine) action(JSON.parse(message.data));
  });
  const end = (text, more) => {
    source.close();
    drawStory(found, text, more);
  };
  on("found", (rows) => {
    for (const row of rows) found.set(row.id, row);
    drawStory(found, "Searching…");
  });
  on("searched", ({searched, head}) => drawStory(found, `Searching… up to ${count(searched)} of ${count(head)}`));
  on("problem", (text) => end(text));
  on("end", ({complete, from, first, head}) => {
    if (complete) end(found.size > 1 ? "" : "No other event is linked to this one.");
    else if (found.size > MOST) end(`The first ${count(found.size)} events are shown. `);
    else if (from < first) end(`Positions ${count(first)} to ${count(head)} were searched. `, true);
    else end(`Positions ${count(first)} to ${count(from)} of ${count(head)} were searched. `, true);
  });
  source.addEventListener("error", () => end("The search broke off. ", true));
}

function drawStory(found, text, more = false) {
  const box = find("story");
  if (!box) return;
  const rest = more ? make("button", {type: "button", className: "button", onclick: () => tell(true)}, "Search all of the log") : null;
  const note = make("p", {className: "muted", role: "status"}, text, rest);
  box.replaceChildren(make("h3", {}, "Story", make("small", {}, "what caused it, and what it caused")), ...(found.size > 1 ? [tree(found)] : []), note);
}

// Each event below its cause; one whose cause is not known at the top.
function tree(found) {
  const rows = [...found.values()].sort((one, other) => one.position - other.position);
  const below = new Map();
  for (const row of rows) {
    const cause = found.get(row.cause);
    const key = cause && cause.position < row.position ? row.cause : null;
    below.set(key, [...(below.get(key) ?? []), row]);
  }
  const begin = rows[0].time_us;
  const root = make("ul", {className: "tree"});
  const pending = [[root, null]];  // a stack of its own: a story may be deep
  while (pending.length) {
    const [node, key] = pending.pop();
    for (const row of below.get(key) ?? []) {
      const item = make("li", {}, node_(row, begin));
      node.append(item);
      if (below.has(row.id)) {
        const inner = make("ul");
        item.append(inner);
        pending.push([inner, row.id]);
      }
    }
  }
  return root;
}

function node_(row, begin) {
  const link_ = make("a", {href: at(row.position), title: `${date(row.time_us)} ${clock(row.time_us)}`},
    make("b", {}, visible(row.type)), " ", make("span", {className: "name", "data-hue": hue(category(row.stream))}, make("bdi", {}, visible(row.stream))), " ",
    make("small", {}, row.time_us === begin ? clock(row.time_us) : `+${duration((row.time_us - begin) / 1e6)}`));
  if (String(row.position) === open) link_.setAttribute("aria-current", "true");
  return link_;
}

export function begin() {
  const step = (position) => position && go({...here(), event: position});
  keys.bind("log", {
    "[": () => step(event?.previous),
    "]": () => step(event?.next),
  });
}
