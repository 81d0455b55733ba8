"""What a config asks for: the suite that it names, with what its judge adds to it, and what that asks of an engine."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from obliviate.data.key_facts import key_texts
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate_eval.formats import ask
from obliviate_eval.formats.base import Material
from obliviate_eval.metrics import JudgeAgreement, Judged, JudgeKappa, KnownByAny, KnownOnAverage
from obliviate_eval.records import FORM, OF_ENGINE, REWORDED, Probe
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES
from obliviate_eval.suites.base import Suite

_asked = lru_cache(maxsize=8)(ask)  # once for all models
_SAYS = ("key_said", "key_probability", "rouge")
# Pattern of the name of a format's sets -> what is measured of them, as `formats` says of each.
METRICS_OF_FORMS = {
    **dict.fromkeys(("multiple_choice_*", "odd_one_out", "analogy", "true_false"), ("accuracy",)),
    **dict.fromkeys(("mixed_*", "comprehension"), ("key_said", "rouge")),
    "*": _SAYS,
}


def suite_of(spec: EvaluationSpec) -> Suite:
    """A judge judges every set of which generations are measured; where there is an NLI model, it is compared with."""
    suite = SUITES[spec.suite] if isinstance(spec.suite, str) else spec.suite.suite()
    if spec.questions == "formats":
        suite = _in_forms(suite)
    if spec.judge is None:
        return suite
    generated = {metric.type for metric in suite.metrics if Probe.GENERATION in metric.probes}
    compared = Probe.ENTAILMENT in suite.needs and spec.nli is not None
    return replace(
        suite,
        metrics=(*suite.metrics, Judged()),
        comparisons=(*suite.comparisons, *((JudgeAgreement(), JudgeKappa()) if compared else ())),
        sets={name: (*types, "judged") if generated & set(types) else types for name, types in suite.sets.items()},
    )


def _in_forms(suite: Suite) -> Suite:
    """Of each form what is measured of it, as far as the suite has it, and the worst case over all of them."""
    types = {metric.type for metric in suite.metrics}
    over = [each for each in (KnownByAny(), KnownOnAverage()) if each not in suite.comparisons]
    of_forms = {f"*{FORM}{name}": metrics for name, metrics in METRICS_OF_FORMS.items()}
    measured = {name: tuple(each for each in metrics if each in types) for name, metrics in of_forms.items()}
    return replace(suite, comparisons=(*suite.comparisons, *over), sets={**measured, **suite.sets})


def in_forms(corpus: Corpus, fits: Callable[[Row], bool]) -> Corpus:
    """With every forget set NAME also as NAME as FORM, in all forms that the data allows, of the rows that `fits` says
    the model has room for. A record's index is that of the item."""
    sets, warnings = list[EvaluationSet](), list[str]()
    for each in corpus.evaluation:
        sets.append(each)
        if each.role is not Role.FORGET:
            continue
        found = _asked(Material(each.rows, corpus.retain)).only(fits)
        sets += [
            replace(form, name=f"{each.name}{FORM}{form.name}", indices=found.items[form.name])
            for form in found.sets
            if form.rows
        ]
        warnings += [f"{each.name}{FORM}{warning}" for warning in found.warnings]
    return replace(corpus, evaluation=tuple(sets), warnings=(*corpus.warnings, *warnings))


def worded(corpus: Corpus, questions: Literal["given", "paraphrased", "both", "formats"]) -> Corpus:
    """With the questions as `evaluation.questions` says, of both wordings those of the forget sets. A row without a
    paraphrase is asked as it is, so that both sets have the same items. What of formats has room, a model tells."""
    if questions in ("given", "formats"):
        return corpus
    sets, warnings = list[EvaluationSet](), list[str]()
    for each in corpus.evaluation:
        if questions == "both" and each.role is not Role.FORGET:
            sets.append(each)
            continue
        lacking = sum(bool(row.question) and row.paraphrased_question is None for row in each.rows)
        if lacking:
            warnings.append(
                f"evaluation.questions: {questions}: {lacking} of {len(each.rows)} rows of the set {each.name} have no "
                "paraphrased_question, and are asked as they are; add the field"
            )
        rows = tuple(map(_reworded, each.rows))
        reworded = replace(each, rows=rows)
        sets += [each, replace(reworded, name=each.name + REWORDED)] if questions == "both" else [reworded]
    return replace(corpus, evaluation=tuple(sets), warnings=(*corpus.warnings, *warnings))


def _reworded(row: Row) -> Row:
    """What carries its fact stays, whichever words the other question has."""
    if row.paraphrased_question is None:
        return row
    return replace(row, question=row.paraphrased_question, key_facts=key_texts(row))


def asked_of_engine(spec: EvaluationSpec, sets: Sequence[EvaluationSet]) -> dict[str, Any]:
    """All of the config that records depend on, but for the engine itself, as JSON: two suites that ask for the same
    share their records."""
    suite = suite_of(spec)
    needs = {each.name: suite.needs_of(each.name, each.role) & OF_ENGINE for each in sets}
    sampled = any(Probe.SAMPLES in probes for probes in needs.values())
    return {
        "sets": {
            name: {
                "probes": sorted(probes),
                "new_tokens": suite.new_tokens_of(name),
                "cut": name in suite.cut_truths,
                "as_long_as_truth": name in suite.as_long_as_truth,
            }
            for name, probes in needs.items()
            if probes
        },
        "generation": spec.generation.model_dump(mode="json"),
        "sampling": spec.sampling.model_dump(mode="json") if sampled else None,
        "harness": None if spec.harness is None else spec.harness.model_dump(mode="json"),
    }
