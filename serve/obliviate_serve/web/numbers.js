// Numbers as readers of papers expect them, with no more digits than a model's dtype supports.

const FEWEST = 2; // of a model that is served no longer
let digits = new Map(); // model -> significant digits

/** `models`: ServedModel of the server's list. */
export function learn(models) {
  digits = new Map(models.map((model) => [model.id, model.digits]));
}

const digitsOf = (model) => digits.get(model) ?? FEWEST;

/** Of a model, with a true minus sign; an en dash where it gave none. */
export function nats(value, model) {
  if (value == null) return "–";
  return String(Number(value.toPrecision(digitsOf(model)))).replaceAll("-", "−");
}

/** A difference, with its sign. */
export const signed = (value, model) => (value > 0 ? `+${nats(value, model)}` : nats(value, model));

/** Up to three significant digits, two below a tenth, then a power of ten. */
export function probability(value, model) {
  if (value == null) return "–";
  if (value === 0 || value === 1) return String(value);
  const most = Math.min(3, digitsOf(model));
  const below = 1 - 10 ** -most;
  if (value > below) return `> ${below}`;
  if (value >= 0.001) return value.toPrecision(value < 0.1 ? 2 : most);
  return value.toExponential(1).replace("-", "−");
}
