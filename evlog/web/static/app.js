// The page: which view is shown, and what is common to all. Each view is a module with `begin` and `show`.

import {find} from "./dom.js";
import {here, go, FILTERS} from "./route.js";
import * as keys from "./keys.js";
import * as live from "./live.js";
import * as log from "./log.js";
import * as event from "./event.js";
import * as streams from "./streams.js";
import * as subscriptions from "./subscriptions.js";
import * as store from "./store.js";

const VIEWS = {log, streams, subscriptions, store};
let view = null;

function show() {
  const place = here();
  if (!Object.hasOwn(VIEWS, place.view)) place.view = "log";
  if (view !== place.view) {
    if (view !== null) VIEWS[view].hide?.();
    view = place.view;
    for (const name of Object.keys(VIEWS)) find(`view-${name}`).hidden = name !== view;
    for (const tab of document.querySelectorAll("nav a")) {
      if (tab.dataset.view === view) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
  }
  VIEWS[view].show(place);
  event.show(place);
}

// The log's tab leads back to the filters that were set.
function keepFilters() {
  const place = here();
  if (place.view !== "log") return;
  const kept = new URLSearchParams(FILTERS.filter((name) => place[name]).map((name) => [name, place[name]]));
  document.querySelector("nav a[data-view=log]").href = kept.size ? `#/log?${kept}` : "#/log";
}

keys.begin();
keys.bind("", {
  1: () => document.querySelector("nav a[data-view=log]").click(),
  2: () => go({view: "streams"}),
  3: () => go({view: "subscriptions"}),
  4: () => go({view: "store"}),
  f: () => live.follow(!live.following),
  "?": keys.showKeys,
});
for (const each of [log, event, streams, subscriptions, store]) each.begin();
addEventListener("hashchange", () => {
  keepFilters();
  show();
});
keepFilters();
show();
live.begin();
