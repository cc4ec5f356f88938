// The store in numbers, and a quick check of it.

import {ask, bytes, count, duration, exact, find, make, many, visible} from "./dom.js";
import * as keys from "./keys.js";
import * as live from "./live.js";
import {here, link} from "./route.js";

const box = find("store");
const result = make("div", {id: "findings", role: "status"});
const check = make("button", {type: "button", id: "verify", title: "Lengths, headers and the end of the log (v)"}, "Check quickly");
const PAUSE_MS = 2000;  // between two looks
let due = null;
let isAsking = false;

export async function show() {
  if (isAsking) return;
  isAsking = true;
  try {
    draw(await ask("store"));
    find("store-note").textContent = "";
  } catch (error) {
    box.replaceChildren();
    find("store-note").textContent = error.message;
  } finally {
    isAsking = false;
  }
}

const at = (text) => (text === null ? "–" : exact(Date.parse(text) * 1000 + Number(text.match(/\.\d{3}(\d{3})/)?.[1] ?? 0)));

function draw(store) {
  const tiles = [
    [count(store.events), "events"], [count(store.streams), "streams"], [bytes(store.bytes), "on disk"],
    [count(store.segments), store.segments === 1 ? "segment" : "segments"],
  ];
  const can = store.capabilities;
  const facts = [
    ["Store", make("code", {}, visible(store.path))],
    ["Id", make("code", {}, store.id)],
    ["Engine", visible(can.engine)],
    ["Durability", visible(can.durability)],
    ["Positions", `${count(store.first_position)} – ${count(store.last_position)}, ${can.positions}`],
    ["First event", at(store.first_time)],
    ["Last event", at(store.last_time)],
    store.compressed_segments && ["Compressed", `${many(store.compressed_segments, "segment")}, ${bytes(store.saved_bytes)} saved`],
    store.deleted_streams && ["Deleted", many(store.deleted_streams, "stream")],
    store.mirror_of && ["Mirror of", make("code", {}, visible(store.mirror_of))],
    store.importing && ["Importing", "events with their times; until then it takes no others"],
    store.unfinished_fork && ["Unfinished", "a fork; run evlog fork again"],
    store.moved_to && ["Moved to", make("code", {}, visible(store.moved_to))],
    ["Event limit", bytes(can.max_event_bytes)],
    ["evlog", store.version],
  ].filter(Boolean);
  const ahead = store.clock_ahead_seconds >= 1
    ? make("p", {className: "problem"}, `The last event's time is ${duration(store.clock_ahead_seconds)} ahead of the clock: all later events get the same time.`) : "";
  box.replaceChildren(
    make("div", {className: "tiles"}, ...tiles.map(([value, name]) => make("div", {}, make("b", {}, value), make("span", {}, name)))),
    ahead,
    make("h2", {}, "Health", check), result,
    make("h2", {}, "About"),
    make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    ...(store.kept.length ? [make("h2", {}, "Retention"), make("dl", {}, ...store.kept.flatMap(kept))] : []),
    ...(store.schemas.length ? [make("h2", {}, "Schemas"), make("p", {}, ...store.schemas.flatMap((each) => [
      make("a", {className: "chip", href: link({view: "log", type: each.type})}, `${visible(each.type)} `, make("small", {}, `version ${each.version}`)), " "]))] : []));
}

function kept(rule) {
  const words = [
    rule.max_count !== null && `the last ${many(rule.max_count, "event")}`,
    rule.max_age_seconds !== null && `for ${duration(rule.max_age_seconds)}`,
    rule.before > 1 && !rule.deleted && `from version ${count(rule.before)} on`,
    rule.deleted && "deleted",
    rule.tombstone && "for ever: nothing can be appended",
  ].filter(Boolean);
  const name = rule.category ? `category ${visible(rule.name)}` : visible(rule.name);
  return [make("dt", {}, make("bdi", {}, name)), make("dd", {}, words.join(", ") || "all events")];
}

async function verify() {
  check.disabled = true;
  result.replaceChildren(make("p", {className: "muted"}, "Checking…"));
  try {
    const {ok, findings, count: all} = await ask("verify");
    result.replaceChildren(
      make("p", {className: ok ? "fine" : "problem"}, ok ? "✓ No damage found in lengths, headers and the end of the log. " : `✗ ${many(all, "finding")}. `),
      make("ul", {}, ...findings.map((each) => make("li", {}, make("b", {}, each.severity), ` ${visible(each.file)}${each.position ? `, position ${count(each.position)}` : ""}: ${visible(each.detail)}`))),
      make("p", {className: "muted"}, make("code", {}, "evlog verify"), " checks every byte."));
  } catch (error) {
    result.replaceChildren(make("p", {className: "problem"}, error.message));
  } finally {
    check.disabled = false;
  }
}

export function begin() {
  result.append(make("p", {className: "muted"}, "Not checked since the page was opened."));
  check.addEventListener("click", verify);
  keys.bind("store", {v: verify});
  live.onNews(() => {
    if (here().view !== "store" || due !== null) return;
    due = setTimeout(() => {
      due = null;
      if (here().view === "store") show();
    }, PAUSE_MS);
  });
}
