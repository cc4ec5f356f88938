// Nodes, numbers and times. Whatever comes from the store becomes a text node here, never markup.

const NUMBER = new Intl.NumberFormat("en");
const DAY = new Intl.DateTimeFormat(undefined, {weekday: "long", day: "numeric", month: "long", year: "numeric"});
// Characters that would reorder or hide what stands around them.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export const find = (id) => document.getElementById(id);

// Make an element. Properties are set as such, `data-…` and `aria-…` as attributes; what is undefined is left out.
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A text with characters that cannot be seen made visible.
export const visible = (text) =>
  text.replace(HIDDEN, (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"));

export const count = (number) => NUMBER.format(number);
export const many = (number, one, more = one + "s") => `${count(number)} ${number === 1 ? one : more}`;

export function bytes(number) {
  if (number < 1000) return many(number, "byte");
  const power = Math.min(4, Math.floor(Math.log10(number) / 3));
  return `${(number / 1000 ** power).toPrecision(3)} ${["", "kB", "MB", "GB", "TB"][power]}`;
}

export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${(seconds / size).toFixed(seconds < 10 * size ? 1 : 0)} ${unit}`;
  }
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

const padded = (number, length = 2) => String(number).padStart(length, "0");
const moment = (microseconds) => new Date(microseconds / 1000);

export function clock(microseconds) {
  const at = moment(microseconds);
  return `${padded(at.getHours())}:${padded(at.getMinutes())}:${padded(at.getSeconds())}.${padded(at.getMilliseconds(), 3)}`;
}

export const day = (microseconds) => DAY.format(moment(microseconds));

export function date(microseconds) {
  const at = moment(microseconds);
  return `${at.getFullYear()}-${padded(at.getMonth() + 1)}-${padded(at.getDate())}`;
}

// Local time to the microsecond, as it stands in the log, with its zone.
export function exact(microseconds) {
  const fraction = padded(microseconds % 1e6, 6);
  return `${date(microseconds)} ${clock(microseconds).slice(0, 8)}.${fraction} ${zone(moment(microseconds))}`;
}

export const utc = (microseconds) => moment(microseconds).toISOString().slice(0, 19) + "." + padded(microseconds % 1e6, 6) + "Z";

export function zone(at = new Date()) {
  const minutes = -at.getTimezoneOffset();
  const rest = Math.abs(minutes) % 60;
  return `UTC${minutes < 0 ? "−" : "+"}${Math.floor(Math.abs(minutes) / 60)}${rest ? ":" + padded(rest) : ""}`;
}

export const age = (microseconds) => `${duration(Math.max(0, Date.now() / 1000 - microseconds / 1e6))} ago`;

// One of eight colours, usually the same for the same text; different ones for different texts while there are any.
const hues = new Map();
export function hue(text) {
  if (!hues.has(text)) {
    let hash = 7;
    for (const character of text) hash = (hash * 31 + character.codePointAt(0)) >>> 0;
    const taken = new Set(hues.values());
    for (let tries = 0; tries < 8 && taken.has(hash % 8); tries += 1) hash += 1;
    hues.set(text, hash % 8);
  }
  return hues.get(text);
}

export const category = (stream) => stream.split("-", 1)[0];

// Ask the store. Throws an Error whose message is what evlog says.
export async function ask(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.append(name, value);
  }
  const answer = await fetch(query.size ? `${path}?${query}` : path, {signal});
  const isJson = answer.headers.get("content-type") === "application/json";
  const found = await (isJson ? answer.json() : answer.text());  // the guard refuses in plain text
  if (!answer.ok) throw new Error(found.problem ?? found);
  return found;
}

export const isAbort = (error) => error.name === "AbortError";
