// Making elements, and small things that all parts of the page need.

export const $ = (id) => document.getElementById(id);

/** Strings become text nodes: what a model or a user said is never parsed as HTML. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) made.setAttribute(name, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

/** A token's text with its spaces and line ends to be seen. */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

/** Gives the reader a value as a JSON file. */
export function save(value, download) {
  const href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  element("a", { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // a browser may still be asking where to put it
}

/** Says of what is wider than its place that it scrolls, also to the keyboard. */
export function scrolling(place) {
  const look = () => {
    const scrolls = place.scrollWidth > place.clientWidth + 1;
    place.classList.toggle("scrolls", scrolls);
    if (scrolls) place.tabIndex = 0;
    else place.removeAttribute("tabindex");
  };
  new ResizeObserver(look).observe(place);
  new MutationObserver(look).observe(place, { childList: true, subtree: true });
  look();
  return place;
}

/** "1 token", "2 tokens" */
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
