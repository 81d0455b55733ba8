// The page at work: it asks, draws what comes, and listens to buttons and keys.

import { ApiError, currentToken, list, probe, useToken } from "./api.js";
import { clearErrors, offer, readForm, showError, toggleModel, writeForm } from "./composer.js";
import { $, element, plural, save, scrolling } from "./dom.js";
import * as inspector from "./inspector.js";
import { learn } from "./numbers.js";
import { Results } from "./results.js";
import { apply, exported, finished, fromCompared, newRun } from "./run.js";
import * as sets from "./sets.js";
import { forget, forgetAll, fromHash, history, read, remember, toHash, write } from "./store.js";
import { scale } from "./tokens.js";

const SINGLE_KEYS = "obliviate.single-keys";
const READ_ALOUD = 4; // answers at most that a screen reader is given in full
let results; // once the server's attacks are known
let run = null; // on the page
let asking = null; // AbortController of the probe under way

async function connect() {
  $("unreachable").hidden = true;
  try {
    const models = await list("v1/models"); // one after the other: a token may be good for one request at a time
    const attacks = await list("v1/attacks");
    $("access").hidden = true;
    $("token-button").hidden = !currentToken();
    learn(models);
    offer(models, attacks);
    results = new Results(models, attacks);
    await sets.offer(results.attacks, openCell);
    openLink();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (!askForToken(error)) {
      $("unreachable").hidden = false;
      $("unreachable").firstElementChild.textContent = error.message;
    }
  }
  for (const part of ["composer", "sets", "empty"]) $(part).hidden = !results || (part === "empty" && run !== null);
}

/** True where a token is what is missing: the field for it is shown. */
function askForToken(error) {
  if (error.status !== 401 && error.status !== 403) return false;
  $("token-button").hidden = false;
  $("access").hidden = false;
  const first = error.status === 401 && !currentToken();
  $("access-error").textContent = first ? "This server asks for a token." : error.message;
  $("token").focus();
  return true;
}

function openLink() {
  const job = sets.jobOf(location.hash);
  if (job) {
    $("sets").open = true;
    sets.follow(job.id, job.only);
    return;
  }
  const link = fromHash(location.hash);
  if (!link) return;
  const { colour, differences } = link.view;
  if (colour in scale || colour === "none") setColour(colour);
  if (differences !== null) results.reference = differences;
  const unknown = writeForm(link.request);
  if (unknown.length) showError({ message: `The link names what is not served here: ${unknown.join(", ")}.` });
}

const colour = () => document.querySelector("[name=colour]:checked").value;
const view = () => ({ colour: colour(), differences: $("differences").value });

function setColour(value) {
  document.querySelector(`[name=colour][value="${value}"]`).checked = true;
  $("results").dataset.colour = value;
  $("legend").classList.toggle("unseen", value === "none");
  const [low, high] = scale[value] ?? ["", ""];
  $("legend-low").textContent = low;
  $("legend-high").textContent = high;
}

function problem(request) {
  if (!request.question) return { param: "question", message: "Write a question." };
  if (!request.models.length) return { param: "models", message: "Choose at least one model." };
  if (!request.attacks.length) return { param: "attacks", message: "Choose at least one attack, or “as it is”." };
  return null;
}

async function ask() {
  stop();
  clearErrors();
  const request = readForm();
  const wrong = problem(request);
  if (wrong) return showError(wrong);
  const mine = new AbortController();
  const asked = newRun(request);
  asking = mine;
  busy(true);
  try {
    for await (const event of probe(request, mine.signal)) {
      if (asking !== mine) return undefined; // another probe has begun
      const changed = apply(asked, event);
      if (event.type === "start") open(asked);
      else if (changed !== null) progress(event, changed);
      $("status").textContent = count();
    }
    if (asked.state !== "done") throw new ApiError(0, { message: "The answers ended before they were complete." });
  } catch (error) {
    if (asking !== mine && error.name === "AbortError") return undefined;
    if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
    asked.state = error.name === "AbortError" ? "stopped" : "broken";
    asked.error = error.message;
    if (run !== asked && asked.state === "broken" && !askForToken(error)) showError(error, ask);
  } finally {
    if (asking === mine) end(asked);
  }
  return undefined;
}

function busy(active) {
  $("stop").hidden = !active;
  $("status").textContent = active ? "Waiting for the server …" : "";
}

const count = () => `${finished(run)} of ${plural(run.cells.length, "answer")}`;

function progress(event, changed) {
  results.update(changed);
  if (event.type !== "answer" || event.sample !== null) return;
  const { model, attack } = run.cells[changed];
  const aloud = run.cells.length <= READ_ALOUD;
  $("live").textContent = aloud ? `${model}, ${attack}: ${event.answer.text || "says nothing"}` : count();
}

function end(asked) {
  asking = null;
  busy(false);
  if (run !== asked) return;
  results.finish();
  remember(asked);
  $("status").textContent = asked.state === "done" ? count() : "";
}

function stop() {
  asking?.abort();
}

function open(shown) {
  run = shown;
  inspector.hide();
  results.show(run);
  keepLink();
  $("results").scrollIntoView({ block: "start" });
}

/** From a cell of a table into the single view: the form asks that question, and the answers stand below. */
function openCell({ request, compared }, { model, attack }) {
  stop();
  clearErrors();
  const told = compared.key?.source === "false_answers" ? compared.key.facts.map((fact) => fact.text) : request.key;
  writeForm({ ...request, key: told }); // a link has no room for false answers
  open(fromCompared({ ...request, key: told }, compared));
  results.find(model, attack)?.root.focus();
}

/** Another turn: what was asked and answered goes before the next question, of the same models. */
function askOn({ request, cell }) {
  const said = [{ role: "user", content: cell.question }, { role: "assistant", content: cell.greedy.text.trim() }];
  writeForm({ ...request, question: "", answer: null, key: [], history: [...(request.history ?? []), ...said] });
  $("more").open = true;
  $("question").focus();
}

const keepLink = () => run && window.history.replaceState(null, "", toHash(run.request, view()));

async function copyLink() {
  if (!run) return;
  keepLink();
  try {
    await navigator.clipboard.writeText(location.href);
    $("live").textContent = "Link copied";
    said($("link"), "Copied");
  } catch { // only pages from this machine or over HTTPS may write to the clipboard
    $("copied").hidden = false;
    $("copied-link").value = location.href;
    $("copied-link").select();
  }
}

function said(button, text) {
  const before = button.textContent;
  if (before === text) return;
  button.textContent = text;
  setTimeout(() => { button.textContent = before; }, 1500);
}

function exportRun() {
  if (!run) return;
  save(exported(run), `${run.id}.json`);
}

function showHistory() {
  const entries = history().map((entry, index) => {
    const when = new Date(entry.created * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    const { question, models, attacks } = entry.request;
    const facts = [when, models.join(", "), attacks.length > 1 ? plural(attacks.length, "attack") : null];
    const below = element("small", {}, facts.filter(Boolean).join(" · "));
    const choose = element("button", { type: "button", class: "entry" }, question, below);
    choose.addEventListener("click", () => {
      $("history").close();
      stop();
      clearErrors();
      writeForm(entry.request);
      open(entry);
    });
    const drop = element("button", { type: "button", class: "quiet", "aria-label": `Delete “${question}”` }, "✕");
    drop.addEventListener("click", () => { forget(index); showHistory(); });
    return element("li", {}, choose, drop);
  });
  const none = element("li", { class: "dim" }, "Nothing has been asked yet.");
  $("entries").replaceChildren(...(entries.length ? entries : [none]));
  $("clear").hidden = !entries.length;
  inspector.hide();
  if (!$("history").open) $("history").showModal();
}

function nextOf(options, value) {
  return options[(options.indexOf(value) + 1) % options.length];
}

function changeColour(value) {
  setColour(value);
  keepLink();
}

function changeDifferences(value) {
  results.compareWith(value);
  keepLink();
}

function nextDifferences() {
  const options = [...$("differences").options].map((option) => option.value);
  if (run) changeDifferences(nextOf(options, $("differences").value));
}

const SHORTCUTS = {
  "/": () => $("question").focus(),
  c: () => changeColour(nextOf([...Object.keys(scale), "none"], colour())),
  d: nextDifferences,
  h: showHistory,
  l: copyLink,
  e: exportRun,
  t: () => $("theme").click(),
  "?": () => { inspector.hide(); $("help").showModal(); },
};

function escape() {
  if (document.activeElement?.matches("input, textarea")) document.activeElement.blur();
  else if (!inspector.hide()) stop();
}

addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return; // closes itself with Escape
  if (event.key === "Escape") return escape();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return $("composer").requestSubmit();
  if (event.ctrlKey || event.metaKey || event.altKey || !$("single-keys").checked) return undefined;
  if (event.target.matches("input:not([type=radio]), textarea, select")) return undefined;
  const shortcut = /^[1-9]$/.test(event.key) ? () => toggleModel(Number(event.key) - 1) : SHORTCUTS[event.key];
  if (shortcut && results) {
    event.preventDefault();
    shortcut();
  }
  return undefined;
});

$("composer").addEventListener("submit", (event) => { event.preventDefault(); if (results) ask(); });
$("stop").addEventListener("click", stop);
$("sets-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const request = readForm();
  const wrong = problem({ ...request, question: "any" });
  if (wrong) showError(wrong);
  else sets.start(request);
});
$("retry").addEventListener("click", connect);
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = $("token").value.trim();
  const possible = /^[\x21-\x7e]+$/.test(given); // what a header may hold
  $("access-error").textContent = possible ? "" : "A token has no spaces and no accents.";
  if (!possible) return;
  useToken(given);
  $("token").value = "";
  connect();
});
$("forget-token").addEventListener("click", () => { useToken(null); connect(); });
$("token-button").addEventListener("click", () => { $("access").hidden = false; $("token").focus(); });
$("history-button").addEventListener("click", showHistory);
$("help-button").addEventListener("click", SHORTCUTS["?"]);
$("clear").addEventListener("click", () => { forgetAll(); showHistory(); });
$("answers").addEventListener("onward", (event) => askOn(event.detail));
$("link").addEventListener("click", copyLink);
$("export").addEventListener("click", exportRun);
$("colour").addEventListener("change", () => changeColour(colour()));
$("differences").addEventListener("change", (event) => changeDifferences(event.target.value));
$("single-keys").checked = read(SINGLE_KEYS, true);
$("single-keys").addEventListener("change", (event) => write(SINGLE_KEYS, event.target.checked));
for (const button of document.querySelectorAll("[data-close]"))
  button.addEventListener("click", () => button.closest("dialog").close());
addEventListener("hashchange", () => results && openLink());

setColour("logp");
inspector.watch($("answers"));
for (const wide of ["matrix", "rows"]) scrolling($(wide));
connect();
