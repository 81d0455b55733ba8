// What attacks are called on the page: their kind in full, then what tells them from others of it.

export const KINDS = {
  none: "Plain", paraphrase: "Paraphrase", prefix: "Prefix injection", jailbreak: "Jailbreak", in_context: "In context",
  framing: "Framing", filler: "Filler text", own_words: "Own words",
};

/** A button's text, below the name of its kind. */
export const short = ({ name, kind }) =>
  name === "none" ? "as it is" : name === kind ? "facts" : name.replace("translated_", "in ").replace(`${kind}_`, "").replaceAll("_", " ");

/** An attack of the server's list; of one that asks in several languages, one of them. */
export function named(attacks, name) {
  const several = name.startsWith("translated_") ? attacks.get("translated") : null;
  return attacks.get(name) ?? { ...several, name };
}

/** A heading; the bare name where the server has no such attack any more (a probe of the history). */
export function title(attack) {
  if (attack.kind === undefined) return attack.name;
  return attack.kind === "none" ? KINDS.none : `${KINDS[attack.kind]}: ${short(attack)}`;
}
