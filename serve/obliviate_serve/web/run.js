// One probe as data: what was asked, and what has come back so far. Events go in, the page is drawn from it.

export const newRun = (request) => ({
  id: null,
  created: Math.floor(Date.now() / 1000), // seconds
  request,
  reference: null, // the model that the others are compared with, where it was asked
  key: null, // which words of the true answer carry its fact
  cells: [], // a model under an attack: what it was sent, and its answers
  state: "waiting", // then streaming, and done, stopped or broken
  error: null,
});

/** One question of a comparison, as if it had been asked alone. */
export function fromCompared(request, { index, key, results }) {
  const cells = results.map((result) => ({ ...result, tokens: [], error: null }));
  return { ...newRun(request), id: `question-${index}`, state: "done", reference: request.reference, key, cells };
}

/** Takes in one event; gives the index of the cell it changed, or null. */
export function apply(run, event) {
  if (event.type === "start") {
    [run.id, run.reference, run.key] = [event.id, event.reference, event.key];
    run.state = "streaming";
    run.cells = event.asked.map((asked) => ({
      ...asked, tokens: [], greedy: null, samples: [], true_answer: null, change: null, error: null,
    }));
    return null;
  }
  if (event.type === "done") {
    run.state = "done";
    return null;
  }
  const cell = run.cells[event.index];
  if (event.type === "token") cell.tokens.push(event.token);
  else if (event.type === "true_answer") cell.true_answer = event.true_answer;
  else if (event.type === "change") cell.change = event.change;
  else if (event.type === "error") cell.error = event.error;
  else if (event.sample === null) cell.greedy = event.answer;
  else cell.samples[event.sample] = event.answer;
  return event.index;
}

export const tokensOf = (cell) => cell.greedy?.tokens ?? cell.tokens;

/** How many of a complete text's tokens are said: an end of turn behind them is not in the text. */
export const spoken = (tokens, text) => tokens.length - (tokens.length && !text.endsWith(tokens.at(-1).text) ? 1 : 0);

/** Of an answer; one that was cut off has no end of turn. */
export const spokenOf = (answer) =>
  answer.finish_reason === "stop" ? spoken(answer.tokens, answer.text) : answer.tokens.length;

export const finished = (run) => run.cells.filter((cell) => cell.greedy || cell.error).length;

/** The file that a reader takes home: the request as it can be sent again, and the results in the form of /v1/probe. */
export function exported(run) {
  const told = ({ tokens, error, samples, ...result }) => ({ ...result, samples: samples.filter(Boolean) });
  return {
    object: "probe",
    id: run.id,
    created: run.created,
    state: run.state,
    request: run.request,
    reference: run.reference,
    key: run.key,
    results: run.cells.filter((cell) => cell.greedy).map(told),
    errors: run.cells.filter((cell) => cell.error).map(({ model, attack, error }) => ({ model, attack, error })),
  };
}
