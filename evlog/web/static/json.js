// JSON made readable without parsing it: numbers, duplicate keys and the order stay as they are in the store.

import {make, visible} from "./dom.js";

const TOKEN = /"(?:[^"\\]|\\.)*"?|[{}[\],:]|[^\s{}[\],:"]+/g;
const MOST_DEPTH = 100;

// Return nodes for a JSON text, which may be cut off anywhere.
export function pretty(text) {
  const out = document.createDocumentFragment();
  const tokens = text.match(TOKEN) ?? [];
  let depth = 0;
  let plain = "";
  const line = () => { plain += "\n" + "  ".repeat(Math.min(depth, MOST_DEPTH)); };
  const colour = (kind, token) => {
    out.append(plain, make("span", {className: kind}, visible(token)));
    plain = "";
  };
  tokens.forEach((token, at) => {
    const next = tokens[at + 1];
    if (token === "{" || token === "[") {
      plain += token;
      depth += 1;
      if (next !== "}" && next !== "]") line();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      if (tokens[at - 1] !== "{" && tokens[at - 1] !== "[") line();
      plain += token;
    } else if (token === ",") {
      plain += token;
      line();
    } else if (token === ":") {
      plain += ": ";
    } else if (token[0] === '"') {
      colour(next === ":" ? "key" : "string", token);
    } else {
      colour(/^[-\d]/.test(token) ? "number" : "word", token);
    }
  });
  out.append(plain);
  return out;
}
