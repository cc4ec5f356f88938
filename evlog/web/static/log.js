// The log, the newest event first: pages of it by position, or of one stream by version, and new events.
//
// A page that nothing limits from above is the newest one; events that come are put on top of it. A search that
// takes long comes in several answers: each says how far it came.

import {ask, category, clock, count, date, day, exact, find, hue, isAbort, make, many, utc, visible, zone} from "./dom.js";
import {FILTERS, go, here, link, replace} from "./route.js";
import * as keys from "./keys.js";
import * as live from "./live.js";

const PAGE = 100;
const MOST_LINES = 300;
const list = find("rows");
const scroll = find("rows-scroll");
const form = find("filters");
const fields = form.elements;

let shown = null;      // what the list shows, as a key
let search = null;     // the AbortController of the search under way
let events = [];       // of the list, the newest first
let top = 0;           // the number up to which new events were looked for
let isNewest = false;  // whether new events belong on top
let ended = null;      // the last answer of the search
let waiting = [];      // new events while the reader is further down
let isAsking = false;  // whether new events are being asked for
let isStale = false;   // whether there was news meanwhile

const numberOf = (event) => (here().stream ? event.version : event.position);
const filtersOf = (place) => Object.fromEntries(FILTERS.map((name) => [name, place[name]]));

// --- lines

function lineOf(event, place, isNew = false) {
  const number = place.stream ? event.version : event.position;
  const to = link({...place, view: "log", event: event.position});
  const line = make("a", {className: "row line" + (isNew ? " new" : ""), href: to, title: `${exact(event.time_us)}\n${utc(event.time_us)}`},
    make("span", {className: "number"}, count(number)),
    make("span", {className: "time"}, clock(event.time_us)),
    make("span", {className: "name", "data-hue": hue(category(event.stream))}, make("bdi", {}, visible(event.stream))),
    make("span", {className: "type"}, make("bdi", {}, visible(event.type))),
    make("span", {className: "data"}, ...event.tags.map((tag) => make("span", {className: "tag"}, visible(tag))),
      event.redacted ? make("em", {}, "redacted") : make("bdi", {}, visible(event.data))));
  line.dataset.position = event.position;
  return make("li", {}, line);
}

// Lines, with a heading before the first one and wherever the day changes.
function withDays(shown, lineOf) {
  const nodes = [];
  let before = null;
  for (const event of shown) {
    const of = date(event.time_us);
    if (of !== before) nodes.push(make("li", {className: "day"}, day(event.time_us)));
    before = of;
    nodes.push(lineOf(event));
  }
  return nodes;
}

function draw() {
  const place = here();
  list.replaceChildren(...withDays(events, (event) => lineOf(event, place)));
  mark(place);
}

// Mark the line of the event that is open.
export function mark(place) {
  for (const line of list.querySelectorAll("a[aria-current]")) line.removeAttribute("aria-current");
  if (place.event) list.querySelector(`a[data-position="${CSS.escape(place.event)}"]`)?.setAttribute("aria-current", "true");
}

// --- pages

async function load(place) {
  search?.abort();
  const mine = (search = new AbortController());
  const newer = place.after !== undefined;
  let bound = newer ? place.after : place.before;
  const found = [];
  events = [];
  waiting = [];
  ended = null;
  isNewest = false;
  scroll.scrollTop = 0;
  showWaiting();
  note("");
  const slow = setTimeout(() => list.replaceChildren(), 200);  // what is there stays until then: no flicker
  try {
    do {
      const answer = await ask("events", {...filtersOf(place), [newer ? "after" : "before"]: bound, order: newer ? "newer" : "older", limit: PAGE - found.length}, mine.signal);
      if (ended === null) top = answer.top;
      ended = answer;
      bound = answer.bound;
      if (newer) found.unshift(...answer.events);
      else found.push(...answer.events);
      events = found;
      if (answer.events.length || !answer.more) {
        clearTimeout(slow);
        draw();
      }
      if (answer.more && found.length < PAGE) note(`Searching… ${newer ? "up" : "down"} to ${count(bound)} of ${count(answer.top)}. Esc stops.`);
      foot(place);
    } while (ended.more && found.length < PAGE);
    if (newer && !ended.more && !ended.problem && place.after !== "0") {
      const {after, ...rest} = place;
      replace(rest);  // the newest page was reached, and is full
      return;
    }
    isNewest = !newer && place.before === undefined;
    note(ended.problem ?? (events.length ? "" : nothing(place)));
    foot(place);
  } catch (error) {
    if (isAbort(error)) return;
    list.replaceChildren();
    note(error.message);
    foot(place);
  } finally {
    clearTimeout(slow);
    if (search === mine) {
      search = null;
      if (isStale) lookForNew();
    }
  }
}

function nothing(place) {
  return FILTERS.some((name) => place[name]) ? "No events match." : "No events yet. They appear here as they are appended.";
}

function stop() {
  if (search === null) return;
  search.abort();
  search = null;
  if (ended?.more) note(`Stopped at ${count(ended.bound)}; nothing further was searched.`);
}

function note(text) {
  find("note").textContent = text;
}

function foot(place) {
  const first = events[0];
  const last = events.at(-1);
  find("range").textContent = first ? `${count(numberOf(last))} – ${count(numberOf(first))} of ${count(Math.max(top, numberOf(first)))}` : "";
  const isTop = place.before === undefined && place.after === undefined;
  find("newest").disabled = find("newer").disabled = isTop;
  const atEnd = place.after === "0" || (place.after === undefined && ended !== null && !ended.more);
  find("older").disabled = find("oldest").disabled = atEnd;
}

function turn(bounds) {
  const {before, after, event, ...place} = here();
  go({...place, ...bounds});
}

const turns = {
  newest: () => turn({}),
  oldest: () => turn({after: 0}),
  newer: () => events.length ? turn({after: numberOf(events[0])}) : turn({}),
  older: () => turn({before: events.length ? numberOf(events.at(-1)) : ended?.bound}),  // without events: a search was stopped
};

// --- new events

async function lookForNew() {
  const place = here();
  isStale = true;
  if (place.view !== "log" || !isNewest || !live.following || isAsking || search !== null) return;
  isAsking = true;
  isStale = false;
  const key = shown;
  try {
    const found = [];
    let answer;
    let head;
    do {
      answer = await ask("events", {...filtersOf(place), after: top, before: answer?.bound, limit: PAGE - found.length});
      if (key !== shown || !isNewest) return;
      head ??= answer.top;
      found.push(...answer.events);
    } while (answer.more && found.length < PAGE);
    if (answer.more) {  // more than a page has come: what is between is not shown
      if (scroll.scrollTop < 8) load(place);
      else waiting = null;
    } else if (found.length) {
      if (scroll.scrollTop < 8) put(found);
      else if (waiting !== null && waiting.length <= MOST_LINES) waiting.unshift(...found);
    }
    top = head;
    showWaiting();
    foot(place);
    if (answer.problem) note(answer.problem);
  } catch (error) {
    note(error.message);
  } finally {
    isAsking = false;
    if (isStale) lookForNew();
  }
}

// Put new events on top. The other lines stay the nodes that they are, with the focus and what is selected.
function put(more) {
  const place = here();
  if (events.length && date(events[0].time_us) === date(more.at(-1).time_us)) list.firstElementChild.remove();
  list.prepend(...withDays(more, (event) => lineOf(event, place, true)));
  events = [...more, ...events];
  for (; events.length > MOST_LINES; events.pop()) {
    list.lastElementChild.remove();
    if (list.lastElementChild.className === "day") list.lastElementChild.remove();
    ended = {...ended, more: true};
  }
  mark(place);
  note("");
  foot(place);
}

function showWaiting() {
  const button = find("waiting");
  button.hidden = waiting !== null && !waiting.length;
  button.textContent = waiting === null || waiting.length > PAGE ? "↑ Many new events" : `↑ ${many(waiting.length, "new event")}`;
}

function takeWaiting() {
  const more = waiting;
  waiting = [];
  scroll.scrollTop = 0;
  if (more === null || more.length > PAGE) load(here());
  else if (more.length) put(more);
  showWaiting();
}

// --- filters

// Spaces around what was typed are left out, but not those of a text or of a name that a link has given.
function readFilters() {
  const place = here();
  const valueOf = (name) => (name === "text" || fields[name].value === place[name] ? fields[name].value : fields[name].value.trim());
  go({view: "log", ...Object.fromEntries(FILTERS.map((name) => [name, valueOf(name)]))});
}

function showFilters(place) {
  let set = 0;
  for (const name of FILTERS) {
    const value = place[name] ?? "";
    fields[name].value = value;
    fields[name].classList.toggle("set", value !== "");
    set += value !== "";
  }
  fields.correlation.parentElement.hidden = !place.correlation;
  find("clear").hidden = !set;
  find("unfold").textContent = set ? `Filters (${set})` : "Filters";
  find("numbers").textContent = find("jump-label").textContent = place.stream ? "Version" : "Position";
}

async function suggest() {
  try {
    for (const [name, texts] of Object.entries(await ask("names"))) {
      find(`names-${name}`).replaceChildren(...texts.map((text) => make("option", {value: text})));
    }
  } catch (error) {
    note(error.message);
  }
}

// --- the view

export function show(place) {
  const key = link({view: "log", ...filtersOf(place), before: place.before, after: place.after});
  showFilters(place);
  if (key === shown && events.length) {
    mark(place);
    if (isStale) lookForNew();
    return;
  }
  shown = key;
  load(place);
}

export function hide() {
  if (search !== null) shown = null;  // it begins again when it is looked at again
  search?.abort();
}

function jump(event) {
  event.preventDefault();
  const number = find("jump").elements.number.value.trim();
  if (/^\d{1,15}$/.test(number)) turn({before: Number(number) + 1});
}

function step(by) {
  const line = keys.step(list, by);
  if (line && here().event) replace({...here(), event: line.dataset.position});
}

function search_() {
  find("unfold").setAttribute("aria-expanded", "true");
  fields.text.focus();
  fields.text.select();
}

export function begin() {
  find("zone").textContent = `Time (${zone()})`;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    readFilters();
  });
  form.addEventListener("change", readFilters);
  form.addEventListener("focusin", suggest, {once: true});
  find("clear").addEventListener("click", () => go({view: "log"}));
  find("unfold").addEventListener("click", () => {
    const button = find("unfold");
    button.setAttribute("aria-expanded", button.getAttribute("aria-expanded") !== "true");
  });
  for (const [name, action] of Object.entries(turns)) find(name).addEventListener("click", action);
  find("jump").addEventListener("submit", jump);
  find("waiting").addEventListener("click", takeWaiting);
  scroll.addEventListener("scroll", () => {
    if (scroll.scrollTop < 8 && (waiting === null || waiting.length)) takeWaiting();
  });
  live.onNews(lookForNew);
  keys.bind("log", {
    "/": search_,
    j: () => step(1),
    k: () => step(-1),
    n: () => find("older").disabled || turns.older(),
    p: () => find("newer").disabled || turns.newer(),
    Home: () => { scroll.scrollTop = 0; if (!find("newest").disabled) turns.newest(); },
    End: () => find("oldest").disabled || turns.oldest(),
    x: () => go({view: "log"}),
    Escape: () => {
      const {event, ...rest} = here();
      if (search !== null) stop();
      else if (event) go(rest);
    },
  });
}
