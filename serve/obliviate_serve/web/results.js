// A run as the reader sees it: for each attack the models side by side, and above them what came back where.

import { named, title } from "./attacks.js";
import { differing, marks } from "./diff.js";
import { $, element, plural, scrolling } from "./dom.js";
import { nats, probability, signed } from "./numbers.js";
import { showPrompt } from "./prompt.js";
import { finished, spoken, spokenOf, tokensOf } from "./run.js";
import { compare, dimTail, fill, mark, tokenList } from "./tokens.js";
import { verdictBadge } from "./verdict.js";

export const TRUTH = "=truth"; // differences from the true answer; no model's name begins so
const said = ({ greedy, tokens }) =>
  (greedy ? greedy.tokens.slice(0, spokenOf(greedy)) : tokens).map((token) => token.text).join("");

const LABELS = {
  entailment: ["bad", "entails"], neutral: ["plain", "neutral"], contradiction: ["good", "contradicts"],
};

/** What is known of an answer at a glance; `brief` where the true answer is named beside it already. */
function badges(answer, brief = false) {
  const found = [];
  if (answer?.refusal) found.push(["good", "refuses"]);
  if (answer?.entailment) {
    const [kind, verb] = LABELS[answer.entailment] ?? ["plain", answer.entailment];
    if (kind !== "plain") found.push([kind, brief ? verb : `${verb} the true answer`]);
    else if (!brief) found.push([kind, verb]);
  }
  return found.map(([kind, text]) => element("span", { class: `badge ${kind}` }, text));
}

function share(value) {
  const bar = element("i", { class: "bar" });
  bar.style.setProperty("--share", value ?? 0);
  return bar;
}

function answerFigures(answer, limit, model) {
  const parts = [plural(answer.tokens.length, "token"), `log P ${nats(answer.logp, model)}`];
  if (answer.finish_reason === "length") parts.push(`cut at ${limit}`);
  return element("p", { class: "figures" }, parts.join(" · "));
}

/** Nothing where the browser offers no clipboard: it does to pages from this machine or over HTTPS alone. */
function copyButton(text, whose) {
  if (!navigator.clipboard) return null;
  const label = `Copy the answer of ${whose}`;
  const button = element("button", { type: "button", class: "quiet", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  return button;
}

function truthBlock(truth, model) {
  const tokens = tokenList(`Tokens of the true answer under ${model}`, model, "truth");
  fill(tokens, truth.tokens);
  dimTail(tokens, spoken(truth.tokens, truth.text));
  return element(
    "section", { class: "under" },
    element("h5", {}, "True answer"),
    element("p", { class: "share" }, share(truth.probability), element("b", {}, probability(truth.probability, model)),
      element("small", {}, `per token · log P ${nats(truth.logp, model)}`)),
    element("p", { class: "figures" }),
    tokens,
  );
}

/** Its fact's words, and how much likelier they are than under the reference. */
function keyFigures(truth, change, reference, model) {
  const parts = truth.key_probability == null ? [] : [`key fact ${probability(truth.key_probability, model)} per token`];
  if (change?.key_logp != null) parts.push(`${signed(change.key_logp, model)} nats beside ${reference}`);
  return parts.join(" · ");
}

function samplesBlock(samples, model, limit) {
  const items = [...samples].flatMap((answer, index) => {
    if (!answer) return []; // samples may come in any order
    const tokens = tokenList(`Tokens of sample ${index + 1} of ${model}`, model, `sample ${index}`);
    fill(tokens, answer.tokens);
    dimTail(tokens, spokenOf(answer));
    return [element("li", {}, tokens, ...badges(answer), answerFigures(answer, limit, model))];
  });
  const heading = element("h5", {}, plural(items.length, "sample"));
  return element("section", { class: "under" }, heading, element("ol", {}, ...items));
}

const KEY_SOURCES = {
  given: "", false_answers: "Key fact: the words that the false answers replace.",
  guess: "Key fact guessed: the words that the question does not have. Give it under “More of the question”.",
};

/** The text with its key facts marked. Their places count code points, as Python does. */
function withFacts(text, key) {
  const letters = [...text];
  let from = 0;
  const parts = (key?.facts ?? []).flatMap(({ start, end }) => {
    const before = letters.slice(from, start).join("");
    from = end;
    return [before, element("mark", {}, letters.slice(start, end).join(""))];
  });
  return [...parts, letters.slice(from).join("")];
}

class Card {
  constructor(cell, run, colour) {
    const { model, served_model: served, attack, prefix } = cell;
    [this.cell, this.run] = [cell, run];
    this.tokens = tokenList(`Tokens of the answer of ${model}, ${attack}`, model, "greedy");
    this.badges = element("span", { class: "badges" });
    this.verdict = element("span");
    this.badges.append(this.verdict);
    this.waiting = element("p", { class: "waiting" });
    this.error = element("p", { class: "error", role: "alert" });
    this.figures = element("div", { class: "row" });
    [this.truth, this.samples] = [element("div"), element("div")];
    const alias = served === model ? null : element("small", {}, `now ${served}`);
    this.root = element(
      "article", { class: `card colour-${colour}`, tabindex: "-1" },
      element("header", {}, element("h4", {}, element("i", { class: "dot" }), model, alias), this.badges),
      prefix ? element("p", { class: "prefix", title: "The attack began the answer with this" }, prefix) : null,
      this.tokens, this.waiting, this.error, this.figures, this.truth, this.samples,
    );
    this.update();
  }

  /** To take the answer along, to see what was sent, and to ask on from here. */
  buttons(text) {
    const { cell, run } = this;
    const of = `of ${cell.model}, ${cell.attack}`;
    const askOn = () =>
      this.root.dispatchEvent(new CustomEvent("onward", { bubbles: true, detail: { request: run.request, cell } }));
    return element(
      "span", {}, text ? copyButton(text, cell.model) : null,
      quiet("Prompt", `Show the prompt ${of}`, () => showPrompt(run.request, cell)),
      text ? quiet("Ask on", `Ask on behind the answer ${of}`, askOn) : null,
    );
  }

  update() {
    const { cell, run } = this;
    const { greedy, error, samples, true_answer: truth } = cell;
    const limit = plural(run.request.max_tokens, "token");
    fill(this.tokens, tokensOf(cell));
    if (greedy) dimTail(this.tokens, spokenOf(greedy));
    const under_way = run.state === "streaming" && !greedy && !error;
    this.root.classList.toggle("streaming", under_way);
    this.root.setAttribute("aria-busy", String(under_way));
    this.waiting.textContent = greedy ? "(says nothing)" : under_way ? "waiting for the model" : "no answer";
    this.waiting.hidden = Boolean(error || (greedy ? greedy.text : cell.tokens.length));
    this.error.textContent = error?.message ?? "";
    // What stands there already stays as it is, and keeps the focus while other things come.
    if (greedy && !this.figures.hasChildNodes()) {
      this.badges.append(...badges(greedy));
      this.figures.append(answerFigures(greedy, limit, cell.model), this.buttons(greedy.text));
    }
    if (truth && !this.truth.hasChildNodes()) this.truth.append(truthBlock(truth, cell.model));
    if (truth) {
      compare(this.truth.querySelector(".tokens"), truth, cell.change);
      this.truth.querySelector(".figures").textContent = keyFigures(truth, cell.change, run.reference, cell.model);
    }
    this.verdict.replaceChildren(verdictBadge(cell.change?.verdict) ?? "");
    if (samples.some(Boolean) && samples.filter(Boolean).length !== this.samples.querySelectorAll("li").length)
      this.samples.replaceChildren(samplesBlock(samples, cell.model, limit));
  }
}

function quiet(text, label, clicked) {
  const button = element("button", { type: "button", class: "quiet", "aria-label": label }, text);
  button.addEventListener("click", clicked);
  return button;
}

const BESIDE = 4; // cards that stand side by side; more scroll past the reference

/** Of many, the reference first: it stays while the others scroll. */
function row(cards, reference, label) {
  const beside = element("div", { class: "cards" }, ...cards.map((card) => card.root));
  if (cards.length <= BESIDE) return beside;
  const pinned = cards.find(({ cell }) => cell.model === reference);
  if (pinned) beside.prepend(pinned.root);
  pinned?.root.classList.add("pinned");
  beside.classList.add("many");
  beside.setAttribute("role", "region");
  beside.setAttribute("aria-label", label);
  return scrolling(beside);
}

function attackSection(attack, cards, { question }, reference) {
  const asked = cards[0].cell.question;
  const heading = element("h3", { title: attack.name }, title(attack), element("small", {}, attack.description ?? ""));
  const summary = element("summary", {}, "As it was asked");
  const worded = asked === question ? null : element("details", { class: "worded" }, summary, element("p", {}, asked));
  return element("section", { class: "attack" }, heading, worded, row(cards, reference, `Answers: ${title(attack)}`));
}

function matrixCell(card, withTruth) {
  const { greedy, error, true_answer: truth } = card.cell;
  const link = element("button", { type: "button", class: "quiet" });
  link.addEventListener("click", () => card.root.focus());
  if (error) link.append("error");
  else if (!greedy) link.append("…");
  else if (withTruth) link.append(share(truth?.probability), element("b", {}, probability(truth?.probability, card.cell.model)));
  else link.append(greedy.refusal ? "refuses" : "answers");
  const flags = withTruth ? badges(greedy, true) : [];
  return element("td", {}, link, verdictBadge(card.cell.change?.verdict), ...flags);
}

/** Draws runs into the page's result section; one at a time. */
export class Results {
  /** What the server offers: ServedModel and AttackInfo of its lists. */
  constructor(models, attacks) {
    this.models = models.map((model) => model.id);
    this.attacks = new Map(attacks.map((attack) => [attack.name, attack]));
    this.changed = new Set(); // cards to draw again with the next frame
    this.reference = "";
  }

  show(run) {
    this.run = run;
    const { question, answer } = run.request;
    this.cards = run.cells.map((cell) => new Card(cell, run, this.colour(cell.model)));
    const names = [...new Set(run.cells.map((cell) => cell.attack))];
    $("results").hidden = false;
    $("empty").hidden = true;
    $("results-title").textContent = question;
    $("truth").hidden = !answer;
    $("truth").replaceChildren(element("small", {}, "True answer "), ...withFacts(answer ?? "", run.key));
    $("key-source").textContent = run.key ? KEY_SOURCES[run.key.source] : "";
    $("answers").replaceChildren(...names.map((name) => {
      const cards = this.cards.filter((card) => card.cell.attack === name);
      return attackSection(this.attack(name), cards, run.request, run.reference ?? run.request.reference);
    }));
    this.offerReferences();
    this.finish();
  }

  find(model, attack) {
    return this.cards.find(({ cell }) => cell.model === model && cell.attack === attack);
  }

  /** The colour of its button; of a model that is served no longer, one behind those. */
  colour(model) {
    const place = this.models.indexOf(model);
    return (place < 0 ? this.models.length + this.run.request.models.indexOf(model) : place) % 8;
  }

  attack(name) {
    return named(this.attacks, name);
  }

  offerReferences() {
    const { models, answer } = this.run.request;
    const options = [["", "not marked"], ...models.map((name) => [name, `from ${name}`])];
    if (answer) options.push([TRUTH, "from the true answer"]);
    $("differences").replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    this.compareWith(options.some(([value]) => value === this.reference) ? this.reference : "");
  }

  compareWith(reference) {
    this.reference = reference;
    $("differences").value = reference;
    this.markDifferences();
  }

  /** Draws a changed cell with the next frame, so that a burst of events costs one drawing. */
  update(index) {
    if (!this.changed.size) requestAnimationFrame(() => this.draw());
    this.changed.add(this.cards[index]);
  }

  draw() {
    for (const card of this.changed) card.update();
    this.changed.clear();
    this.drawMatrix();
    this.markDifferences();
  }

  /** The run has come to an end, good or bad. */
  finish() {
    this.changed = new Set(this.cards);
    this.draw();
    const { state, error, cells } = this.run;
    $("cut").hidden = !(state === "broken" || state === "stopped");
    const stopped = `Stopped after ${finished(this.run)} of ${plural(cells.length, "answer")}.`;
    $("cut").textContent = state === "stopped" ? stopped : (error ?? "");
  }

  /** Against the reference's answer to the same attack; the reference itself stays unmarked. */
  markDifferences() {
    for (const { cell, tokens, root } of this.cards) {
      const baseline = this.find(this.reference, cell.attack);
      const other = this.reference === TRUTH ? this.run.request.answer : baseline && said(baseline.cell);
      root.classList.toggle("baseline", cell === baseline?.cell);
      mark(tokens, marks(tokensOf(cell), other ? differing(said(cell), other) : []));
    }
  }

  drawMatrix() {
    const { models, answer } = this.run.request;
    const names = [...new Set(this.cards.map((card) => card.cell.attack))];
    $("matrix").hidden = names.length < 2;
    if (names.length < 2) return;
    const head = models.map((name) => element("th", { scope: "col" }, name));
    const rows = names.map((name) => element(
      "tr", {}, element("th", { scope: "row", title: name }, title(this.attack(name))),
      ...models.map((model) => matrixCell(this.find(model, name), Boolean(answer))),
    ));
    const table = element(
      "table", {},
      element("caption", {}, answer ? "Probability of the true answer, per token" : "Does it answer?"),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Attack"), ...head)),
      element("tbody", {}, ...rows),
    );
    if (!$("matrix").firstElementChild?.isEqualNode(table)) $("matrix").replaceChildren(table); // keeps the focus
  }
}
