// What attacks are called on the page: their kind in full, then what tells them from others of it.

export const KINDS = {
  none: "Plain", paraphrase: "Paraphrase", prefix: "Prefix injection", jailbreak: "Jailbreak", in_context: "In context",
};

/** A button's text, below the name of its kind. */
export const short = ({ name, kind }) =>
  name === "none" ? "as it is" : name === kind ? "facts" : name.replace(`${kind}_`, "").replaceAll("_", " ");

/** A heading; the server's own name where it isn't known any more what it was (a probe of the history). */
export const title = (attack) => (attack.kind === "none" ? KINDS.none : attack.kind ? `${KINDS[attack.kind]}: ${short(attack)}` : attack.name);
