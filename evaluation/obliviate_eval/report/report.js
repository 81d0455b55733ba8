"use strict";
const PAGE_SIZE = 10;
const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set(); // indices of the models that the reader switched off
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children); // strings become text nodes: what a model said is never parsed as HTML
  return made;
}

// Tables: a click on a heading sorts by the cells' data-value, a second one turns it round; empty cells stay last.
function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const first = column === 0 ? "ascending" : "descending";
  const direction = heading.ariaSort === "none" ? first : heading.ariaSort === "ascending" ? "descending" : "ascending";
  const sign = direction === "ascending" ? 1 : -1;
  const value = (row) => row.cells[column].dataset.value;
  for (const other of all("thead th", table)) other.ariaSort = other === heading ? direction : "none";
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (x - y);
  });
  table.tBodies[0].append(...rows);
}

// What is carried compressed: base64 of gzip.
async function unpacked(id) {
  const raw = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// Charts: plotly's text is one of the two scripts that the page allows.
async function loadPlotly() {
  const script = element("script");
  script.text = await unpacked("plotly");
  document.head.append(script);
}

// Charts carry neither text nor grid colours: they take the page's, and again when it changes between light and dark.
function themed(layout) {
  const style = getComputedStyle(document.body);
  const line = getComputedStyle(document.querySelector("nav")).borderBottomColor;
  const axis = (given) => ({ ...given, gridcolor: line, zerolinecolor: line, linecolor: line });
  return {
    ...layout,
    xaxis: axis(layout.xaxis),
    yaxis: axis(layout.yaxis),
    font: { family: style.fontFamily, size: 12.5, color: style.color },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: style.backgroundColor, bordercolor: line, font: { color: style.color }, align: "left" },
    margin: { t: 24, r: 24, b: layout.xaxis.title ? 48 : 28, l: 56 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: style.color },
    showlegend: layout.showlegend ?? false,
    dragmode: false, // a finger on a chart scrolls the page
  };
}

function drawCharts() {
  const outline = getComputedStyle(document.body).color;
  for (const place of all("[data-chart]")) {
    if (place.closest("[hidden]")) continue; // has no size to draw in
    const { data: traces, layout } = data.charts[place.dataset.chart];
    const shown = traces.map((trace) => ({
      ...trace,
      visible: !hidden.has(trace.meta),
      ...(trace.marker && { marker: { ...trace.marker, line: { ...trace.marker.line, color: outline } } }),
      ...(trace.error_x && { error_x: { ...trace.error_x, color: outline } }),
      ...(trace.error_y && { error_y: { ...trace.error_y, color: outline } }),
      ...(trace.mode === "markers+text" && place.clientWidth < 500 && { mode: "markers" }), // labels would overlap
    }));
    Plotly.react(place, shown, themed(layout), {
      responsive: true,
      displaylogo: false,
      modeBarButtons: [["toImage"]], // by default there is one that uploads the chart
    });
  }
}

// Answers: the longest common subsequence of words, as in ROUGE-L, marks what a model says of the true answer.
const words = (text) => text.match(/[\p{L}\p{N}]+|[^\p{L}\p{N}]+/gu) ?? [];
const isWord = (piece) => /[\p{L}\p{N}]/u.test(piece);

function common(pieces, truth) {
  const [a, b] = [pieces, truth].map((list) => list.map((piece) => piece.toLowerCase()));
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const marked = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) { marked.add(i); i++; j++; }
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return marked;
}

function answerRow(index, answer, truth) {
  const model = data.models[index];
  const [text, probability, finished] = answer ?? [null, null, null];
  const name = chips[index].cloneNode(true);
  const row = element("div", { class: "answer", style: `--model:${model.colour}` }, name);
  const facts = element("small");
  if (!text) row.append(element("p", { class: "nothing" }, text === "" ? "(says nothing)" : "(not generated)"));
  else {
    const pieces = words(text);
    const places = pieces.flatMap((piece, place) => (isWord(piece) ? [place] : []));
    const marked = common(places.map((place) => pieces[place]), truth);
    const said = element("p");
    const isMarked = new Set([...marked].map((place) => places[place]));
    pieces.forEach((piece, place) => said.append(isMarked.has(place) ? element("mark", {}, piece) : piece));
    if (finished === false) said.append(element("small", { title: "cut at the limit of tokens" }, " … (cut)"));
    row.append(said);
    if (truth.length) facts.append(`recall ${(marked.size / truth.length).toFixed(2)}`);
  }
  if (probability != null) {
    facts.append(`${facts.textContent && " · "}P ${probability.toPrecision(2)}`);
    facts.append(element("span", { class: "bar", style: `--share:${probability}` }));
  }
  row.append(facts);
  return row;
}

function questionCard({ set, index, question, truth, answers }) {
  const known = words(truth).filter(isWord);
  const rows = answers.flatMap((answer, model) => (hidden.has(model) ? [] : [answerRow(model, answer, known)]));
  return element(
    "article",
    { class: "question" },
    element("h3", {}, element("small", {}, `${set} ${index}`), question),
    element("div", { class: "answer truth" }, element("span", { class: "chip" }, "True answer"), element("p", {}, truth)),
    ...rows,
  );
}

const visible = (question) => question.answers.filter((answer, model) => answer && !hidden.has(model));

function spread(question) {
  const found = visible(question).map((answer) => answer[1]).filter((probability) => probability != null);
  return found.length ? Math.max(...found) - Math.min(...found) : -1;
}

// Without case and accents: who searches for Noel finds Noël. Of a question it is made when somebody first searches.
const folded = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
function searched(question) {
  question.folded ??= [question.question, question.truth, ...question.answers.map((answer) => answer?.[0] ?? "")].map(folded);
  return question.folded.filter((_, place) => place < 2 || !hidden.has(place - 2));
}

let questions = [];
let page = 0;
function showQuestions(most = PAGE_SIZE) {
  const value = (id) => document.getElementById(id).value;
  const wanted = folded(value("search").trim());
  const set = value("set");
  const differing = document.getElementById("differing").checked;
  const found = questions.filter(
    (each) =>
      (!set || each.set === set) &&
      (!differing || new Set(visible(each).map((answer) => answer[0] ?? "")).size > 1) &&
      (!wanted || searched(each).some((text) => text.includes(wanted))),
  );
  if (value("order") === "spread") found.sort((a, b) => spread(b) - spread(a));
  const last = Math.max(0, Math.ceil(found.length / PAGE_SIZE) - 1);
  page = Math.min(Math.max(page, 0), last);
  const from = most === PAGE_SIZE ? page * PAGE_SIZE : 0;
  const shown = found.slice(from, from + most);
  document.getElementById("questions").replaceChildren(...shown.map(questionCard));
  document.getElementById("found").textContent = found.length
    ? `${from + 1}–${from + shown.length} of ${found.length} questions`
    : "No question matches.";
  for (const button of all("[data-page]")) button.disabled = button.dataset.page < 0 ? page === 0 : page === last;
}

async function setUpQuestions() {
  questions = JSON.parse(await unpacked("packed-questions"));
  for (const set of new Set(questions.map((each) => each.set)))
    document.getElementById("set").append(element("option", { value: set }, set));
  const form = document.querySelector(".controls");
  form.addEventListener("input", () => { page = 0; showQuestions(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of all("[data-page]"))
    button.addEventListener("click", () => {
      page += Number(button.dataset.page);
      showQuestions();
      document.getElementById("answers").scrollIntoView();
    });
  showQuestions();
}

const toggles = all("[data-toggle]");
const chips = toggles.map((toggle) => element("span", { class: "chip" }, ...toggle.cloneNode(true).childNodes));
for (const toggle of toggles)
  toggle.addEventListener("click", () => {
    const index = Number(toggle.dataset.toggle);
    if (!hidden.delete(index)) hidden.add(index);
    toggle.ariaPressed = String(!hidden.has(index));
    for (const each of all(`[data-model="${index}"]`)) each.hidden = hidden.has(index);
    if (questions.length) showQuestions();
    if (window.Plotly) drawCharts();
  });

for (const button of all(".sortable thead button"))
  button.addEventListener("click", () => sortBy(button.closest("th")));

const theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
function applyTheme(dark) {
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  theme.ariaPressed = String(dark);
  if (window.Plotly) drawCharts();
}
theme.addEventListener("click", () => applyTheme(theme.ariaPressed !== "true"));
system.addEventListener("change", () => applyTheme(system.matches));
applyTheme(system.matches);

// On paper everything is unfolded, in dark ink, with as many questions as the reader chose.
const unfolded = new Set();
addEventListener("beforeprint", () => {
  for (const each of all("details:not([open])")) {
    unfolded.add(each);
    each.open = true;
  }
  applyTheme(false);
  const chosen = document.getElementById("printed")?.value ?? "page";
  if (questions.length && chosen !== "page") showQuestions(chosen === "all" ? questions.length : Number(chosen));
});
addEventListener("afterprint", () => {
  for (const each of unfolded) each.open = false;
  unfolded.clear();
  applyTheme(system.matches);
  if (questions.length) showQuestions();
});

const packed = document.getElementById("packed-questions");
if (packed)
  setUpQuestions().catch(() => {
    document.getElementById("found").textContent = "This browser is too old for the answers: records.parquet of each run holds them.";
  });
loadPlotly().then(drawCharts, () => {
  for (const place of all("[data-chart]")) {
    place.classList.add("failed");
    place.textContent = "This browser is too old for the charts; the tables hold the same numbers.";
  }
});
