// What outlives a probe: the history in this browser, and the link that carries a probe to another one.

const HISTORY = "obliviate.history";
const LONGEST = 50; // probes

export function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise; // forbidden by the browser, or damaged
  }
}

/** False where the browser has no room or forbids it. */
export function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export const history = () => read(HISTORY, []);

/** The newest first; the oldest make room where the browser's storage is full. */
export function remember(run) {
  const kept = run.cells.map((cell) => (cell.greedy ? { ...cell, tokens: [] } : cell)); // tokens are in the answer
  const entries = [{ ...run, cells: kept }, ...history()].slice(0, LONGEST);
  while (entries.length && !write(HISTORY, entries)) entries.pop();
}

export const forget = (index) => write(HISTORY, history().filter((_, each) => each !== index));

export const forgetAll = () => write(HISTORY, []);

const LISTS = { fact: "context", model: "models", attack: "attacks", key: "key", alias: "aliases" };
const TEXTS = { q: "question", a: "answer", other: "paraphrased_question", system: "system", prefix: "answer_prefix" };
const NUMBERS = ["samples", "temperature", "top_p", "seed", "max_tokens", "alternatives"];

/** A request and how it is looked at, as the part of an address after "#", which no browser sends to a server. */
export function toHash(request, view) {
  const parameters = new URLSearchParams();
  for (const [key, name] of Object.entries(TEXTS)) if (request[name]) parameters.set(key, request[name]);
  for (const [key, name] of Object.entries(LISTS)) for (const each of request[name] ?? []) parameters.append(key, each);
  for (const pair of Object.entries(request.translations ?? {})) parameters.append("in", pair.join(":"));
  parameters.set("reference", request.reference ?? "");
  if (request.deterministic) parameters.set("deterministic", "1");
  for (const { role, content } of request.history ?? []) parameters.append(role, content);
  for (const name of NUMBERS) parameters.set(name, request[name]);
  for (const [name, value] of Object.entries(view)) parameters.set(name, value);
  return `#${parameters}`;
}

/** What `toHash` wrote; null where the address holds no probe. Numbers that are none are left out. */
export function fromHash(hash) {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  if (!parameters.has("q")) return null;
  const request = {};
  for (const [key, name] of Object.entries(TEXTS)) request[name] = parameters.get(key) ?? "";
  for (const [key, name] of Object.entries(LISTS)) request[name] = parameters.getAll(key);
  const pairs = parameters.getAll("in").map((pair) => /^([^:]*):?(.*)$/s.exec(pair).slice(1));
  request.reference = parameters.get("reference") ?? undefined; // of a link that says nothing of it
  request.deterministic = parameters.has("deterministic");
  const turns = [...parameters].filter(([key]) => key === "user" || key === "assistant");
  request.history = turns.map(([role, content]) => ({ role, content }));
  request.translations = Object.fromEntries(pairs);
  for (const name of NUMBERS) {
    const value = parseFloat(parameters.get(name));
    if (Number.isFinite(value)) request[name] = value;
  }
  return { request, view: { colour: parameters.get("colour"), differences: parameters.get("differences") } };
}
