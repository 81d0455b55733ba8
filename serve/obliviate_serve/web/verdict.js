// What is left of a fact, in a word: as the server judged it.

import { element } from "./dom.js";

export const VERDICTS = {
  says: ["bad", "says it", "An answer says the fact"],
  holds: ["bad", "holds it", "Not said, but its words are more probable than under the reference"],
  gone: ["good", "gone", "Neither said, nor more probable than under the reference"],
};

/** Null where the server could not judge. */
export function verdictBadge(verdict) {
  if (!verdict) return null;
  const [kind, text, title] = VERDICTS[verdict];
  return element("span", { class: `badge ${kind} verdict`, title }, text);
}
