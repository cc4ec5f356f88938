// Where the page is: `#/log?category=order&event=17`. Everything that is shown can be linked to.

export const FILTERS = ["text", "stream", "category", "type", "tag", "since", "until", "correlation"];

export function here() {
  const [view, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return {view: view || "log", ...Object.fromEntries(new URLSearchParams(query))};
}

export function link({view, ...parameters}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.append(name, value);
  }
  return query.size ? `#/${view}?${query}` : `#/${view}`;
}

export function go(to) {
  location.hash = link(to);
}

// Go where "back" does not lead through each step.
export function replace(to) {
  history.replaceState(null, "", link(to));
  dispatchEvent(new HashChangeEvent("hashchange"));
}
