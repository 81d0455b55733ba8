// A text as its tokens: coloured by surprise, entropy, or what differs from the reference model; each to be reached with
// the pointer or the arrow keys.

import { element } from "./dom.js";

const HOTTEST = 5; // nats: a probability below 0.7 %, or 148 choices that seem alike
const known = new WeakMap(); // element of a token -> {info, position, of, beside}

const BOTH_WAYS = [`≤ −${HOTTEST}`, `≥ +${HOTTEST} nats`];
export const scale = {
  logp: ["0", `≤ −${HOTTEST} nats`], entropy: ["0", `≥ ${HOTTEST} nats`], gain: BOTH_WAYS, climb: BOTH_WAYS,
};

/** {info, position, of, beside}: the token behind an element. */
export const tokenOf = (span) => known.get(span);

const NAMES = { " ": "space", "\n": "line end", "\t": "tab" };
const spoken = (text) => [...text].map((letter) => NAMES[letter] ?? "white space").join(", ") || "empty token";

const heat = (value) => Math.min(1, Math.max(0, value) / HOTTEST);

function tokenSpan(info, position) {
  const tabindex = position ? -1 : 0; // one stop of the Tab key for the whole text
  const span = element("span", { class: "token", role: "option", "aria-selected": "false", tabindex });
  if (info.text.includes("\n")) span.classList.add("breaks");
  span.append(info.text === "" ? "\u200b" : info.text);
  if (!info.text.trim()) span.setAttribute("aria-label", spoken(info.text)); // spaces alone are no name
  if (info.logp == null) span.classList.add("no-logp");
  else span.style.setProperty("--surprise", heat(-info.logp).toFixed(3));
  if (info.entropy == null) span.classList.add("no-entropy");
  else span.style.setProperty("--entropy", heat(info.entropy).toFixed(3));
  known.set(span, { info, position });
  return span;
}

/** Of a model; `kind` tells lists of the same sort in other cards. */
export const tokenList = (label, model, kind) => element("div", {
  class: "tokens", role: "listbox", "aria-label": label, "aria-orientation": "horizontal", "data-model": model, "data-kind": kind,
});

/** Brings a list up to `tokens`. What stands there already stays, and keeps the focus; else it is written anew. */
export function fill(list, tokens) {
  const spans = [...list.children];
  const goesOn = spans.length <= tokens.length && spans.every((span, i) => tokenOf(span).info.text === tokens[i].text);
  if (!goesOn) list.replaceChildren();
  for (let position = list.childElementCount; position < tokens.length; position++)
    list.append(tokenSpan(tokens[position], position));
}

/** Behind the first `said` tokens stands the end of the turn: it is scored, and not said. */
export const dimTail = (list, said) =>
  [...list.children].forEach((span, position) => span.classList.toggle("unsaid", position >= said));

/** Of the true answer: which tokens write its fact, and how each stands beside the reference. `gain`: nats by which it
 * is likelier; `climb`: log of how many times fewer tokens are likelier than it, on the same scale. */
export function compare(list, { key }, change) {
  [...list.children].forEach((span, position) => {
    span.classList.toggle("key", key.includes(position));
    const [gain, rank] = [change?.logp[position], change?.rank[position]];
    const token = known.get(span);
    token.key = key.includes(position);
    if (gain == null && rank == null) return;
    const climb = rank == null ? null : Math.log((token.info.rank - rank) / token.info.rank);
    token.beside = { gain, rank: rank == null ? null : token.info.rank - rank };
    paint(span, "gain", gain);
    paint(span, "climb", climb);
  });
}

function paint(span, name, value) {
  if (value == null) return;
  span.style.setProperty(`--${name}`, heat(Math.abs(value)).toFixed(3));
  span.classList.toggle(`${name}-lost`, value < 0);
}

export function mark(list, flags) {
  [...list.children].forEach((span, position) => span.classList.toggle("differs", Boolean(flags?.[position])));
}
