"""What a user is told about the data before it is measured, and about the answers after."""

from collections.abc import Mapping, Sequence

from obliviate.data.rows import Corpus, EvaluationSet
from obliviate.data.text import TextEncoder
from obliviate.schema import ModelSpec
from obliviate.source import weights_dtype
from obliviate_eval.asked import suite_of
from obliviate_eval.collect import answers_of
from obliviate_eval.metrics import AnyMetric
from obliviate_eval.records import SCORED, Probe, Record, ScoredAnswer
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites.base import Suite
from obliviate_eval.words import beyond_published

# What a probe takes of a row; without it there is nothing to ask.
FIELDS = {
    "question": Probe.GENERATION,
    "paraphrased_answer": Probe.PARAPHRASED,
    "perturbed_answers": Probe.PERTURBED,
}


def of_data(corpus: Corpus, spec: EvaluationSpec) -> list[str]:
    """About the data, and about what the suite asks of a set that none of its rows has."""
    suite = suite_of(spec)
    found = [*corpus.warnings, *_unjudged(suite, spec)]
    for each in corpus.evaluation:
        unscored = {
            name: [m.type for m in metrics]
            for name, probe in FIELDS.items()
            if each.rows
            and not any(getattr(row, name) for row in each.rows)
            and (
                metrics := [
                    m for m in suite.metrics_of(each.name, each.role) if probe in m.probes and not scores(m, each)
                ]
            )
        }
        if unscored:
            asking = dict.fromkeys(str(metric) for types in unscored.values() for metric in types)
            found.append(
                f"data: no row of the set {each.name} has {' or '.join(unscored)}: {', '.join(asking)} will score "
                f"nothing there; add the field, or take another suite than {suite.name}"
            )
        asked = {probe for metric in suite.metrics_of(each.name, each.role) for probe in metric.needs_of(each.role)}
        for name, probe in FIELDS.items():
            lacking = sum(not getattr(row, name) for row in each.rows)
            if probe in asked and 0 < lacking < len(each.rows):
                found.append(
                    f"data: {lacking} of {len(each.rows)} rows of the set {each.name} have no {name}: they count as "
                    "unscored where a metric needs it"
                )
        found += _letters(each, suite.metrics_of(each.name, each.role))
    return found


def _unjudged(suite: Suite, spec: EvaluationSpec) -> list[str]:
    """Samples are judged where a metric's parameters say so, and only there: no suite has it by default."""
    asking = [each.type for each in (*suite.metrics, *suite.comparisons) if Probe.SAMPLE_ENTAILMENT in each.probes]
    if not asking or spec.nli is not None:
        return []
    return [
        f"evaluation.nli: is null, and by: entailment asks it of every sample: {', '.join(asking)} will score nothing; "
        "give an NLI model, or take by: rouge"
    ]


def _letters(each: EvaluationSet, metrics: Sequence[AnyMetric]) -> list[str]:
    """Where metrics as published drop letters of the answers."""
    published = [metric.type for metric in metrics if getattr(metric, "words", None) == "published"]
    beyond = sum(beyond_published(row.answer) for row in each.rows)
    if not published or not beyond:
        return []
    return [
        f"data: {beyond} of {len(each.rows)} answers of the set {each.name} hold letters outside a to z, which "
        f"{' and '.join(published)} drop here, as the published figures do; the suite custom reads any script, and so "
        "does `obliviate rescore --metric rouge`"
    ]


def of_texts(encoder: TextEncoder, corpus: Corpus, spec: EvaluationSpec, model: ModelSpec) -> list[str]:
    """Of answers that are scored without their end."""
    suite, found = suite_of(spec), []
    for each in corpus.evaluation:
        probes = suite.needs_of(each.name, each.role) & set(SCORED)
        texts = [
            row.saying(answer)
            for row in each.rows
            for probe, answers in answers_of(row, each.role).items()
            if probe in probes
            for answer in answers
        ]
        distinct = dict.fromkeys(texts)
        if cut := sum(encoder.cuts(*text) for text in distinct):
            found.append(
                f"data: {cut} of {len(distinct)} answers of the set {each.name} are cut at {model.max_length} tokens, "
                "and scored without their end: raise the model's max_length, and engine.max_model_len with it"
            )
    return found


def scores(metric: AnyMetric, each: EvaluationSet, *, logp: bool = True) -> bool:
    """Whether the metric could score the set's first row, had the engine, with or without log-probabilities, and all
    judges answered."""
    row = each.rows[0]
    tokens: tuple[tuple[float, ...], tuple[bool, ...]] = ((-1.0, -1.0), (True, True)) if logp else ((), ())
    answers = {
        probe: tuple(ScoredAnswer(text, *tokens) for text in texts)
        for probe, texts in answers_of(row, each.role).items()
    }
    record = Record(
        each.name, each.role, 0, row.question, row.answer, row.answer, generation=row.answer if row.question else None,
        generation_tokens=(0, 1), generation_finished=True, answers=answers, similarity=1.0, entailment="entailment",
        samples=(row.answer,) * 64 if row.question else (), fluency=1.0, verdict=True,
    )  # fmt: skip
    return metric.score(record) is not None


def of_verdicts(unanswered: Mapping[str, int]) -> str:
    """A warning where the judge behind an endpoint gave no verdict, with the causes; else empty."""
    if not unanswered:
        return ""
    causes = "; ".join(f"{count}: {why}" for why, count in unanswered.items())
    return (
        f"evaluation.judge: no verdict on {sum(unanswered.values())} answers, which count as unscored ({causes}); "
        "`obliviate rescore RUN --judge FILE` asks again where no reply came"
    )


def of_answers(records: Sequence[Record]) -> str:
    """A warning where answers did not come, because the model had not done with thinking; else empty."""
    asked = [record for record in records if record.generation is not None or record.thinking]
    silent = sum(record.generation is None for record in asked)
    if not silent:
        return ""
    return (
        f"{silent} of {len(asked)} generations ended inside their thinking: they count as unscored; raise "
        "evaluation.generation.max_new_tokens, or turn thinking off with the model's template_arguments"
    )


def of_dtype(name: str, model: ModelSpec, dtype: str) -> list[str]:
    """Where the engine has the weights in another dtype than the one that they are stored, and served, in."""
    stored = None if model.endpoint is not None else weights_dtype(model)
    if stored is None or stored == dtype:
        return []
    how = f"rounded to {dtype}" if stored == "float32" else f"computed in {dtype}"
    return [
        f"evaluation.engine.dtype: {dtype}: the weights of {name} are {stored}: its figures hold for the model {how}; "
        f"set evaluation.engine.dtype={stored} for those of the model as it is stored"
    ]
