// The server's HTTP interface as the page uses it. Paths are relative: the page works below any prefix.

const TOKEN = "obliviate.token";
let token = null; // beside the tab's storage, which a browser may forbid

export function currentToken() {
  try { return sessionStorage.getItem(TOKEN) ?? token; } catch { return token; }
}

/** Kept until the tab is closed; null forgets it. */
export function useToken(value) {
  token = value;
  try {
    if (value === null) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, value);
  } catch { /* it then lasts as long as the page */ }
}

/** What the server answered, or status 0 where it could not be reached. `param` names the request's key at fault. */
export class ApiError extends Error {
  constructor(status, { message, param = null, type = null }, retryAfter = null) {
    super(message);
    this.status = status;
    this.param = param?.split(/[.[]/)[0] ?? null;
    this.type = type;
    this.retryAfter = retryAfter; // seconds
  }
}

async function failure(response) {
  const body = await response.json().catch(() => ({})); // a proxy in between answers as it likes
  const error = body.error ?? { message: `The server answered ${response.status} ${response.statusText}.` };
  return new ApiError(response.status, error, Number(response.headers.get("Retry-After")) || null);
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const bearer = currentToken();
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server cannot be reached." });
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export const get = async (path) => (await call(path)).json();
export const list = async (path) => (await get(path)).data;
export const remove = async (path) => (await call(path, { method: "DELETE" })).json();

const post = (body, signal) => ({
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
});

export const send = async (path, body) => (await call(path, post(body))).json();

/** The JSON of each server-sent event until "[DONE]". Lines may be cut anywhere between two chunks. */
export async function* events(stream) {
  let rest = "";
  for await (const chunk of chunks(stream.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + chunk).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue; // comments keep a silent connection open
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield parsed(data);
    }
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError(0, { message: "The server sent what is no event." });
  }
}

async function* chunks(stream) {
  const reader = stream.getReader(); // not every browser iterates over streams
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The connection broke before the answers were complete." });
  } finally {
    reader.releaseLock();
  }
}

/** Events of POST /v1/probe. Throws ApiError, or AbortError once `signal` fires. */
export async function* probe(request, signal) {
  const response = await call("v1/probe", post({ ...request, stream: true }, signal));
  for await (const event of events(response.body)) {
    if (event.type === undefined && event.error) throw new ApiError(0, event.error); // the whole probe failed
    yield event;
  }
}
