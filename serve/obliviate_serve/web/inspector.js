// The figures of one token, beside it while it is pointed at or has the focus.

import { $, element, visible } from "./dom.js";
import { nats, probability, signed } from "./numbers.js";
import { tokenOf } from "./tokens.js";

const box = $("inspector");
const GAP = 6; // pixels between a token and its figures
const LINGER = 150; // milliseconds in which the pointer may cross from the token to the figures
let shown = null;
let leaving = 0;

const bar = (share) => {
  const made = element("i", { class: "bar" });
  made.style.setProperty("--share", share);
  return made;
};

function alternatives({ alternatives: found, text }, model) {
  if (!found.length) return element("p", { class: "dim" }, "No alternatives were asked for.");
  const rows = found.map((each) => {
    const p = each.logp == null ? null : Math.exp(each.logp);
    return element(
      "tr", { class: each.text === text ? "chosen" : null },
      element("th", { scope: "row" }, visible(each.text)),
      element("td", {}, bar(p ?? 0)),
      element("td", {}, probability(p, model)),
      element("td", {}, nats(each.logp, model)),
    );
  });
  const head = ["Alternative", null, "P", "log P"].map((title) => element(title ? "th" : "td", {}, title));
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

function figures({ info, position, key, beside }, of, model) {
  const place = `token ${position + 1} of ${of}`;
  const pairs = [
    ["log-probability", `${nats(info.logp, model)} nats`],
    ["probability", probability(info.logp == null ? null : Math.exp(info.logp), model)],
    ["entropy", `${nats(info.entropy, model)} nats`],
  ];
  if (info.rank != null) pairs.push(["rank", beside?.rank == null ? info.rank : `${info.rank}, reference ${beside.rank}`]);
  if (beside) pairs.push(["beside the reference", `${signed(beside.gain, model)} nats`]);
  if (key) pairs.push(["key fact", "yes"]);
  return [
    element("p", { class: "head" }, element("b", {}, visible(info.text)), element("small", {}, place)),
    element("dl", {}, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    alternatives(info, model),
  ];
}

/** Below the token where there is room, else above; on a phone the style sheet puts it at the bottom. */
function place(span) {
  const [token] = span.getClientRects();
  const { width, height } = box.getBoundingClientRect();
  const room = document.documentElement;
  const below = token.bottom + GAP;
  const top = below + height <= room.clientHeight ? below : Math.max(GAP, token.top - GAP - height);
  box.style.top = `${top}px`;
  box.style.left = `${Math.max(GAP, Math.min(token.left, room.clientWidth - width - GAP))}px`;
}

function follow() {
  if (shown?.isConnected) place(shown);
  else hide(); // the answer was written anew
}

function show(span) {
  clearTimeout(leaving);
  if (shown === span) return;
  hide();
  shown = span;
  box.replaceChildren(...figures(tokenOf(span), span.parentElement.childElementCount, span.parentElement.dataset.model));
  box.hidden = false;
  span.classList.add("inspected");
  span.setAttribute("aria-describedby", "inspector");
  place(span);
}

/** True where there was something to hide. */
export function hide() {
  clearTimeout(leaving);
  if (!shown) return false;
  shown.classList.remove("inspected");
  shown.removeAttribute("aria-describedby");
  shown = null;
  box.hidden = true;
  return true;
}

function focusOn(span) {
  for (const other of span.parentElement.children) {
    other.tabIndex = other === span ? 0 : -1;
    other.ariaSelected = String(other === span);
  }
  show(span);
}

/** Where an arrow key leads from a token; up and down lead to the same place in the answers around. */
function neighbour(span, key) {
  const list = span.parentElement;
  const here = [...list.children].indexOf(span);
  if (key === "ArrowLeft") return list.children[here - 1];
  if (key === "ArrowRight") return list.children[here + 1];
  if (key === "Home") return list.firstElementChild;
  if (key === "End") return list.lastElementChild;
  const kind = list.dataset.kind;
  const lists = [...document.querySelectorAll(`.tokens[data-kind="${kind}"]`)].filter((each) => each.childElementCount);
  const other = lists[lists.indexOf(list) + (key === "ArrowUp" ? -1 : 1)];
  return other?.children[Math.min(here, other.childElementCount - 1)];
}

const KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

export function watch(root) {
  const token = (event) => event.target.closest?.(".token");
  const leave = () => {
    clearTimeout(leaving);
    leaving = setTimeout(() => {
      const focused = document.activeElement?.closest(".token");
      if (focused) show(focused);
      else hide();
    }, LINGER);
  };
  root.addEventListener("pointerover", (event) => token(event) && show(token(event)));
  root.addEventListener("pointerout", (event) => token(event) && leave());
  box.addEventListener("pointerenter", () => clearTimeout(leaving));
  box.addEventListener("pointerleave", leave);
  root.addEventListener("focusin", (event) => token(event) && focusOn(token(event)));
  root.addEventListener("focusout", (event) => token(event) && hide());
  root.addEventListener("keydown", (event) => {
    if (!token(event) || !KEYS.includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); // the page would scroll
    neighbour(token(event), event.key)?.focus();
  });
  addEventListener("scroll", follow, { passive: true });
  addEventListener("resize", follow);
}
