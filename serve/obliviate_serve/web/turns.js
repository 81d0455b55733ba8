// What was said before the question: turns of user and assistant, in the form.

import { $, element } from "./dom.js";

const LONGEST = 20_000; // characters of a turn, as of all texts

function turn({ role, content }) {
  const options = ["user", "assistant"].map((value) => element("option", { value }, value));
  const who = element("select", { "aria-label": "Who says it" }, ...options);
  who.value = role;
  const text = element("textarea", { rows: "1", maxlength: LONGEST, "aria-label": "What was said before" });
  text.value = content;
  const drop = element("button", { type: "button", class: "quiet", "aria-label": "Take this turn out" }, "✕");
  const item = element("li", { class: "row" }, who, text, drop);
  drop.addEventListener("click", () => { item.remove(); $("add-turn").focus(); });
  return item;
}

export const readTurns = () =>
  [...$("turns").children]
    .map((item) => ({ role: item.querySelector("select").value, content: item.querySelector("textarea").value.trim() }))
    .filter(({ content }) => content);

export const writeTurns = (turns) => $("turns").replaceChildren(...turns.map(turn));

$("add-turn").addEventListener("click", () => {
  const role = $("turns").childElementCount % 2 ? "assistant" : "user";
  $("turns").append(turn({ role, content: "" }));
  $("turns").lastElementChild.querySelector("textarea").focus();
});
