// The form: what is asked, of which models, under which attacks; and in it, what was wrong with that.

import { KINDS, short } from "./attacks.js";
import { $, element, plural } from "./dom.js";
import { readTurns, writeTurns } from "./turns.js";

const form = $("composer");
const NUMBERS = [...$("sampling").querySelectorAll("input[type=number]")].map((input) => input.name);
const OFFERED = 4; // models chosen when the page opens
let defaults = { models: [], attacks: [] }; // what a link that names none chooses
const BEYOND = ["paraphrased_answer", "perturbed_answer", "aliases", "answer_prefix"]; // keys without a field
let beyond = {}; // what the question that was filled in brings of them, as long as it is the same question
let wanted = null; // the reference that the reader or a link chose; null: nobody has

const PAIR = /^([^:]+):(.*)$/; // language: question
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const chips = (place) => [...$(place).querySelectorAll("button.chip")];
const chosen = (place) => chips(place).filter((chip) => chip.ariaPressed === "true").map((chip) => chip.value);

function chip(value, text, title, pressed) {
  const attributes = { type: "button", class: "chip", value, title, "aria-pressed": String(pressed) };
  const button = element("button", attributes, ...text);
  button.addEventListener("click", () => {
    button.ariaPressed = String(button.ariaPressed !== "true");
    refresh();
  });
  return button;
}

function modelChip(model, index, first) {
  const notes = [
    model.kind === "alias" ? `→ ${model.root}` : null,
    model.kind === "adapter" ? `on ${model.root}` : null,
    model.on_demand ? "on demand" : null,
    model.guardrail ?? null,
  ].filter(Boolean);
  const dot = element("i", { class: `dot colour-${index % 8}` });
  const note = notes.length ? element("small", {}, notes.join(", ")) : null;
  const title = model.on_demand ? "Loaded when it is asked: the first answer takes longer" : null;
  return chip(model.id, [dot, model.id, note], title, first.has(model.id));
}

/** Offers what the server serves. Aliases stand for models that are in the list already, so they start unchosen. */
export function offer(models, attacks) {
  const own = models.filter((model) => model.kind !== "alias" && !model.on_demand);
  const first = new Set((own.length ? own : models).slice(0, OFFERED).map((model) => model.id));
  defaults = { models: [...first], attacks: ["none"] };
  $("models").replaceChildren(...models.map((model, index) => modelChip(model, index, first)));
  const kinds = [...new Set(attacks.map((attack) => attack.kind))];
  $("attacks").replaceChildren(...kinds.map((kind) => {
    const buttons = attacks.filter((attack) => attack.kind === kind).map((attack) => {
      const made = chip(attack.name, [short(attack)], attack.description, attack.name === "none");
      made.dataset.needs = attack.needs ?? "";
      return made;
    });
    const title = element("span", { id: `kind-${kind}` }, KINDS[kind] ?? kind);
    return element("div", { class: "chips", role: "group", "aria-labelledby": `kind-${kind}` }, title, ...buttons);
  }));
  refresh();
}

/** The request as it stands in the form. */
export function readForm() {
  const request = { question: $("question").value.trim(), answer: $("answer").value.trim() || null };
  request.context = lines($("context").value);
  request.models = chosen("models");
  request.attacks = chosen("attacks");
  for (const name of NUMBERS) request[name] = $(name).valueAsNumber;
  request.deterministic = $("deterministic").checked;
  request.reference = $("reference").value || null;
  request.system = $("system").value.trim() || null;
  request.history = readTurns();
  request.key = lines($("key").value);
  request.paraphrased_question = $("paraphrased_question").value.trim() || null;
  request.translations = translations();
  const same = request.question === beyond.question && request.answer === beyond.answer;
  for (const name of BEYOND) if (same && beyond[name]?.length) request[name] = beyond[name];
  return request;
}

function translations() {
  const pairs = lines($("translations").value).map((line) => PAIR.exec(line) ?? [line, line, ""]);
  return Object.fromEntries(pairs.map(([, language, text]) => [language.trim(), text.trim()]));
}

/** Fills the form in. Gives the names that this server doesn't know. */
export function writeForm({ question, answer, context, models, attacks, reference, ...rest }) {
  $("question").value = question;
  $("answer").value = answer ?? "";
  $("context").value = context.join("\n");
  $("system").value = rest.system ?? "";
  writeTurns(rest.history ?? []);
  $("key").value = (rest.key ?? []).join("\n");
  $("paraphrased_question").value = rest.paraphrased_question ?? "";
  $("translations").value = Object.entries(rest.translations ?? {}).map((pair) => pair.join(": ")).join("\n");
  beyond = { question, answer: answer || null, ...Object.fromEntries(BEYOND.map((name) => [name, rest[name]])) };
  const more = [rest.system, rest.history, rest.key, rest.paraphrased_question, Object.keys(rest.translations ?? {})];
  if (more.some((each) => each?.length)) $("more").open = true;
  wanted = reference === undefined ? null : (reference ?? "");
  for (const name of NUMBERS) if (name in rest) $(name).value = rest[name];
  for (const [place, names] of [["models", models], ["attacks", attacks]]) {
    const pressed = names.length ? names : defaults[place];
    for (const each of chips(place)) each.ariaPressed = String(pressed.includes(each.value));
  }
  $("deterministic").checked = rest.deterministic ?? false;
  refresh();
  const known = new Set([...chips("models"), ...chips("attacks")].map((each) => each.value));
  return [...models, ...attacks].filter((name) => !known.has(name));
}

/** Of the chosen models. One that is named as a retain model is unless the reader says otherwise. */
function offerReferences() {
  const models = chosen("models");
  const value = wanted ?? models.find((name) => /retain/i.test(name)) ?? "";
  const options = [["", "none"], ...models.map((name) => [name, name])];
  $("reference").replaceChildren(...options.map(([name, text]) => element("option", { value: name }, text)));
  $("reference").value = models.includes(value) ? value : "";
}

export const toggleModel = (index) => chips("models")[index]?.click();

/** Attacks wait for what they ask with; the button says how much it would ask. */
function refresh() {
  for (const each of chips("attacks")) {
    const brought = $("sets").open || each.dataset.needs === "" || $(each.dataset.needs).value.trim(); // sets bring their own
    each.disabled = !brought;
    if (each.disabled) each.ariaPressed = "false";
  }
  offerReferences();
  const [models, attacks] = [chosen("models").length, chosen("attacks").length];
  $("ask").textContent = `Ask ${plural(models, "model")}${attacks === 1 ? "" : ` × ${attacks} attacks`}`;
}

/** A field that is not to be seen can't say what is wrong with it. */
function openSampling(event) {
  if ($("sampling").contains(event.target)) $("sampling").open = true;
}

export function clearErrors() {
  for (const message of form.querySelectorAll(".field > .error")) message.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

/** Beside the field at fault where the server named one, else below the button. `again` offers another try. */
export function showError({ message, param, retryAfter }, again) {
  clearErrors();
  const field = form.querySelector(`[data-param="${param === "model" ? "models" : CSS.escape(param ?? "")}"]`);
  const line = element("p", { class: "error", role: "alert", id: "composer-error" }, message);
  if (retryAfter) {
    const button = element("button", { type: "button" }, "Ask again");
    button.addEventListener("click", again);
    line.append(` Worth another try in ${retryAfter} s. `, button);
  }
  (field ?? form.querySelector(".go")).append(line);
  const control = field?.querySelector("input, textarea") ?? field;
  if (!control) return;
  control.closest("details")?.setAttribute("open", "");
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", line.id);
  (control.matches("fieldset") ? control.querySelector("button") : control)?.focus();
}

form.addEventListener("input", refresh);
$("sets").addEventListener("toggle", refresh);
$("reference").addEventListener("change", (event) => { wanted = event.target.value; });
form.addEventListener("invalid", openSampling, { capture: true });
