// A comparison as a table: a row for each question, a cell for each model under each attack, and above them the sums.

import { named, title } from "./attacks.js";
import { element, plural } from "./dom.js";
import { probability, signed } from "./numbers.js";
import { verdictBadge } from "./verdict.js";

const at = ({ model, attack }) => JSON.stringify([model, attack]);

function tally({ says, holds, gone, unknown }) {
  const parts = [[says, "says"], [holds, "holds"], [gone, "gone"], [unknown, "not judged"]];
  return parts.filter(([count]) => count).map(([count, what]) => `${count} ${what}`).join(", ") || "–";
}

function label(cell, question) {
  return `Open “${question}”: ${cell.model}, ${cell.attack}, ${cell.verdict ?? (cell.refusal ? "refuses" : "answers")}`;
}

/** Button of a cell: its verdict, or what the model does; the figures behind it. */
function cellOf(cell, row, open) {
  if (!cell) return element("td", {}, row.error ? "error" : "–");
  const button = element("button", { type: "button", class: "quiet", "aria-label": label(cell, row.question), title: cell.text });
  button.append(verdictBadge(cell.verdict) ?? (cell.refusal ? "refuses" : "answers"));
  const figures = [
    cell.key_probability == null ? null : probability(cell.key_probability, cell.model),
    cell.key_logp == null ? null : `${signed(cell.key_logp, cell.model)} nats`,
  ];
  button.append(element("small", {}, figures.filter(Boolean).join(" · ")));
  button.addEventListener("click", () => open(row.index, cell));
  return element("td", {}, button);
}

/** `attacks`: what the server offers, by name; `open`: called with a question's index and a cell. */
export function draw(table, attacks, open) {
  const columns = table.tallies; // whatever rows are shown, all of them
  const heads = columns.map((column) => element(
    "th", { scope: "col" }, column.model, column.model === table.reference ? element("small", {}, " reference") : null,
    element("small", { class: "attack-name" }, title(named(attacks, column.attack))), element("small", {}, tally(column)),
  ));
  const rows = table.rows.map((row) => {
    const cells = new Map(row.cells.map((cell) => [at(cell), cell]));
    const about = [row.question, element("small", {}, row.error?.message ?? row.answer ?? "")];
    return element(
      "tr", {}, element("th", { scope: "row" }, ...about),
      ...columns.map((column) => cellOf(cells.get(at(column)), row, open)),
    );
  });
  const shown = `${plural(table.rows.length, "question")} of ${table.done} shown`;
  return element(
    "table", {}, element("caption", {}, shown),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Question"), ...heads)),
    element("tbody", {}, ...rows),
  );
}
