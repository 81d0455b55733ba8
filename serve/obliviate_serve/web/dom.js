// Making elements, and writing numbers as readers of papers expect them.

export const $ = (id) => document.getElementById(id);

/** Strings become text nodes: what a model or a user said is never parsed as HTML. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) made.setAttribute(name, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Nats with a true minus sign; an en dash where the model gave none. */
export const nats = (value) => (value == null ? "–" : value.toFixed(3).replace("-", "−"));

/** A difference, with its sign. */
export const signed = (value) => (value > 0 ? `+${nats(value)}` : nats(value));

/** Three significant digits, two below a tenth,, then a power of ten. */
export function probability(value) {
  if (value == null) return "–";
  if (value >= 0.9995) return value === 1 ? "1" : "> 0.999";
  if (value >= 0.001) return value.toPrecision(value < 0.1 ? 2 : 3);
  return value === 0 ? "0" : value.toExponential(1).replace("-", "−");
}

/** A token's text with its spaces and line ends to be seen. */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

/** Gives the reader a value as a JSON file. */
export function save(value, download) {
  const href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  element("a", { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // a browser may still be asking where to put it
}

/** "1 token", "2 tokens" */
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
