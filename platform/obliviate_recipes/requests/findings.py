"""What a certificate's figures come to, in words that need no key: a headline, and a line for each figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from obliviate.data.rows import Row
from obliviate_eval.formats import FORMATS
from obliviate_eval.metrics import METRIC_TYPES
from obliviate_eval.statistics import Figure
from obliviate_recipes.attacks.ask import Ask
from obliviate_recipes.requests.measurement import Measurement
from obliviate_recipes.requests.policy import Bound, Policy
from obliviate_recipes.requests.spec import RequestsRun

SAID = "key_said"


def headline(request: int, before: Measurement, after: Measurement) -> str:
    """By the facts that are stated where these were measured, else by the texts' figures."""
    told = {when: found.requests[request] for when, found in (("before", before), ("after", after))}
    was, now = told["before"].get(SAID), told["after"].get(SAID)
    if was is not None and now is not None and was.value is not None and now.value is not None:
        return (
            f"Asked for what was to be forgotten, the model states {round(now.value * now.scored)} of {now.scored} "
            f"facts; before: {round(was.value * was.scored)} of {was.scored}."
        )
    return "Facts were not told apart from the texts around them; the figures below are of whole answers."


def lines(
    figures: Mapping[str, Figure], before: Mapping[str, Figure], bounds: Mapping[str, Bound]
) -> list[dict[str, Any]]:
    """Of each figure: its plain name, what a higher one means, before, after, the limits, and whether they are met;
    those with a limit first."""
    found = []
    for name, after in figures.items():
        was, bound = before.get(name), bounds.get(name)
        metric = METRIC_TYPES.get(name.rpartition(".")[2])
        found.append({
            "name": name,
            "plain": name if metric is None else metric.title,
            "direction": None if metric is None else metric.direction,
            "before": None if was is None else was.value,
            "after": after.value, "low": after.low, "high": after.high, "items": after.scored,
            "limit": None if bound is None else _limit(bound),
            "passed": None if bound is None else not list(bound.broken(was, after)),
        })  # fmt: skip
    return sorted(found, key=lambda line: line["limit"] is None)


def findings(request: int, before: Measurement, after: Measurement, policy: Policy) -> dict[str, Any]:
    return {
        "headline": headline(request, before, after),
        "forgotten": lines(after.requests[request], before.requests[request], policy.forget),
        "kept": lines(after.kept, before.kept, policy.utility),
    }


def asked_in(config: RequestsRun, rows: Sequence[Row]) -> dict[str, Any]:
    """The wordings and languages that the texts were asked for in: by the evaluation, and by attacks in other forms."""
    forms = [attack.formats for attack in config.attacks if isinstance(attack, Ask)]
    other = config.evaluation.questions != "given" or bool(forms)
    return {
        "questions": config.evaluation.questions,
        "paraphrased": sum(row.paraphrased_question is not None for row in rows) if other else 0,
        "forms": sorted({name for each in forms for name in each or FORMATS}),
        "languages": sorted({name for row in rows for name, _ in row.translations}) if forms else [],
    }


def _limit(bound: Bound) -> str:
    words = {"min": "at least {:g}", "max": "at most {:g}", "min_of_before": "at least {:g} of before",
             "max_of_before": "at most {:g} of before"}  # fmt: skip
    return ", ".join(text.format(limit) for name, text in words.items() if (limit := getattr(bound, name)) is not None)
