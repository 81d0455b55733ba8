// Many questions at once: a set of the server's or a file, asked as a job, shown as a table while it goes on.

import { ApiError, get, list, remove, send } from "./api.js";
import { $, element, plural, save } from "./dom.js";
import { draw } from "./table.js";

const LOOK = 700; // milliseconds between two looks at a job
const UPLOAD = "=file"; // the choice of a file that was read; no set's name begins so
let file = null; // {name, questions}: what was read of a file
let job = null; // id of the one on the page
let shown = null; // its table
let attacks = new Map();
let open = () => {};

const wait = (time) => new Promise((done) => setTimeout(done, time));

/** `known`: the server's attacks, by name; `opened`: called with {request, compared} of a cell's question, and the cell. */
export async function offer(known, opened) {
  [attacks, open] = [known, opened];
  const sets = (await list("v1/questions")).map(({ name, total }) => [name, `${name} (${total})`]);
  const options = [["", sets.length ? "choose a set" : "none on this server"], ...sets];
  $("set").replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

async function read(chosen) {
  if (!chosen) return;
  try {
    file = await send("v1/questions", { name: chosen.name, text: await chosen.text() });
    const left = file.left_out ? `, ${plural(file.left_out, "row")} left out` : "";
    $("set").querySelector(`[value="${UPLOAD}"]`)?.remove();
    $("set").append(element("option", { value: UPLOAD }, `${file.name} (${file.total}${left})`));
    $("set").value = UPLOAD;
    $("set-error").textContent = "";
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  if (!(error instanceof ApiError)) throw error;
  $("set-error").textContent = error.message;
}

function asked({ models, attacks: names, samples, temperature, top_p, seed, max_tokens, alternatives, reference, deterministic }) {
  const probing = { models, attacks: names, samples, temperature, top_p, seed, max_tokens, alternatives, reference, deterministic };
  const [offset, limit] = [$("set-offset").valueAsNumber || 0, $("set-limit").valueAsNumber || 100];
  if ($("set").value !== UPLOAD) return { ...probing, set: $("set").value, offset, limit };
  return { ...probing, questions: file.questions.slice(offset, offset + limit) };
}

/** Begins a job with the form's models and attacks. */
export async function start(request) {
  $("set-error").textContent = $("set").value ? "" : "Choose a set, or a file.";
  if (!$("set").value) return;
  try {
    const { id } = await send("v1/compare", asked(request));
    await follow(id);
  } catch (error) {
    fail(error);
  }
}

/** Shows a job until its end, or until another one takes its place. */
export async function follow(id, only = $("only").value) {
  job = id;
  $("only").value = only;
  $("table").hidden = false;
  try {
    do {
      await look();
      if (job !== id) return;
      if (shown.status === "running") await wait(LOOK);
    } while (job === id && shown.status === "running");
  } catch (error) {
    fail(error);
  }
}

async function look() {
  const [id, only] = [job, $("only").value];
  const table = await get(`v1/compare/${encodeURIComponent(id)}/table?only=${only}`);
  if (id !== job || only !== $("only").value) return;
  shown = table;
  window.history.replaceState(null, "", `#job=${encodeURIComponent(id)}&only=${only}`);
  $("set-progress").max = table.total;
  $("set-progress").value = table.done;
  $("set-stop").hidden = table.status !== "running";
  $("set-status").textContent = `${table.done} of ${plural(table.total, "question")}, ${table.status}`;
  const drawn = draw(table, attacks, openCell);
  if (!$("rows").firstElementChild?.isEqualNode(drawn)) $("rows").replaceChildren(drawn); // keeps the focus
}

async function openCell(index, cell) {
  try {
    open(await get(`v1/compare/${encodeURIComponent(job)}/questions/${index}`), cell);
  } catch (error) {
    fail(error);
  }
}

/** The job that a link names, as {id, only}; null where it names none. */
export function jobOf(hash) {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  return parameters.has("job") ? { id: parameters.get("job"), only: parameters.get("only") ?? "all" } : null;
}

async function exportJob() {
  try {
    save(await get(`v1/compare/${encodeURIComponent(job)}`), `${job}.json`);
  } catch (error) {
    fail(error);
  }
}

$("set-file").addEventListener("change", (event) => read(event.target.files[0]));
$("only").addEventListener("change", () => job && look().catch(fail));
$("set-export").addEventListener("click", exportJob);
$("set-stop").addEventListener("click", () => remove(`v1/compare/${encodeURIComponent(job)}`).then(look).catch(fail));
