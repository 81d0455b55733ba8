"""Formats of asking: is what was forgotten gone, or only the wording in which it was unlearned?

From items, kept rows and a seed to evaluation sets, without a model; each set asks all items that it can, once.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from obliviate.data.rows import EvaluationSet, Row
from obliviate.errors import UserError
from obliviate_eval.formats import dialogue, gaps, options, wordings
from obliviate_eval.formats.base import Asking, Format, Material

FORMATS: dict[str, Format] = {
    "paraphrased": wordings.PARAPHRASED,
    "translated": wordings.TRANSLATED,
    "paraphrase": wordings.PARAPHRASE,
    "prefix": wordings.PREFIX,
    "jailbreak": wordings.JAILBREAK,
    "in_context": wordings.IN_CONTEXT,
    "framing": wordings.FRAMING,
    "filler": wordings.FILLER,
    "cloze": gaps.CLOZE,
    "reverse": gaps.REVERSE,
    "few_shot": dialogue.FEW_SHOT,
    "several_turns": dialogue.SEVERAL_TURNS,
    "mixed": dialogue.MIXED,
    "multiple_choice": options.MULTIPLE_CHOICE,
    "odd_one_out": options.ODD_ONE_OUT,
    "analogy": options.ANALOGY,
    "true_false": options.TRUE_FALSE,
    "comprehension": dialogue.COMPREHENSION,
}


@dataclass(frozen=True)
class Asked:
    """`items`: of each set, which item each of its rows asks for. `formats`: of each set."""

    sets: tuple[EvaluationSet, ...]
    items: Mapping[str, tuple[int, ...]]
    formats: Mapping[str, Format]
    warnings: tuple[str, ...]

    def only(self, fits: Callable[[Row], bool]) -> "Asked":
        """Without the rows for which a model has no room. A set may be left without any: all models have the same."""
        warnings = list(self.warnings)
        sets, items = list[EvaluationSet](), dict[str, tuple[int, ...]]()
        for each in self.sets:
            kept = [(item, row) for item, row in zip(self.items[each.name], each.rows, strict=True) if fits(row)]
            sets.append(replace(each, rows=tuple(row for _, row in kept)))
            items[each.name] = tuple(item for item, _ in kept)
            if longer := len(each.rows) - len(kept):
                warnings.append(f"{each.name}: {longer} of {len(each.rows)} rows are left out: too long for the model")
        return Asked(tuple(sets), items, self.formats, tuple(warnings))


def ask(material: Material, formats: Sequence[str] | None = None) -> Asked:
    """None: all that the data allows. Raises UserError where a format that is named has no row to ask."""
    chosen = FORMATS if formats is None else {name: FORMATS[name] for name in formats}
    found = {name: each.make(material) for name, each in chosen.items()}
    warnings = [warning for of_format in found.values() for asking in of_format if (warning := _left_out(asking))]
    sets, items, of = list[EvaluationSet](), dict[str, tuple[int, ...]](), dict[str, Format]()
    for name, of_format in found.items():
        before = len(sets)
        for asking in of_format:
            rows = {index: made for index, made in enumerate(asking.made) if isinstance(made, Row)}
            if rows:
                sets.append(EvaluationSet(asking.name, asking.role, tuple(rows.values())))
                items[asking.name], of[asking.name] = tuple(rows), chosen[name]
        if formats is not None and len(sets) == before:
            why = "; ".join(map(_left_out, of_format)) or "no row brings what it takes"
            raise UserError(f"formats: {name}: nothing to ask: {why}; give the data that it takes, or leave it out")
    return Asked(tuple(sets), items, of, tuple(warnings))


def _left_out(asking: Asking) -> str:
    """A warning where the set leaves items out; else empty."""
    reasons = Counter(made for made in asking.made if isinstance(made, str))
    if not reasons:
        return ""
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"{asking.name}: {reasons.total()} of {len(asking.made)} rows are left out: {told}"
