// What attacks are called on the page: their kind in full, then what tells them from others of it.

export const KINDS = {
  none: "Plain", paraphrase: "Paraphrase", prefix: "Prefix injection", jailbreak: "Jailbreak", in_context: "In context",
  framing: "Framing", filler: "Filler text",
};

/** A button's text, below the name of its kind. */
export const short = ({ name, kind }) =>
  name === "none" ? "as it is" : name === kind ? "facts" : name.replace(`${kind}_`, "").replaceAll("_", " ");

/** A heading; the bare name where the server has no such attack any more (a probe of the history). */
export function title(attack) {
  if (attack.kind === undefined) return attack.name;
  return attack.kind === "none" ? KINDS.none : `${KINDS[attack.kind]}: ${short(attack)}`;
}
