"""OpenUnlearning's evaluation logs (`TOFU_EVAL.json`) as records, and the figures that it computed itself.

The log maps each metric's name to its aggregate and to values by index. Only some of these are of an item alone and
become records; of token-wise metrics and attacks (extraction strength, Min-K%, ...) the records keep the item's score.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.importers.logs import read_json
from obliviate_eval.metrics.base import WITH_OPTIONS
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.summary import Evaluation

LOG_FILE, SUMMARY_FILE = "TOFU_EVAL.json", "TOFU_SUMMARY.json"
_SETS = {  # the prefix of the log's names -> ours
    "forget": ("forget", Role.FORGET),
    "retain": ("retain", Role.RETAIN),
    "ra": ("real_authors", Role.REAL_AUTHORS),
    "wf": ("world_facts", Role.WORLD_FACTS),
}
_ANSWERS = {"Q_A_Prob": Probe.ANSWER, "Q_A_PARA_Prob": Probe.PARAPHRASED, "Q_A_PERT_Prob": Probe.PERTURBED}
# Scores of an item that cannot be computed again from what the log has: ours by the same names.
_TOKENWISE = ("extraction_strength", "exact_memorization")
_ATTACKS = ("mia_min_k", "mia_min_k_plus_plus", "mia_zlib", "mia_reference")
_ROUGE, _TEXTS = "Q_A_ROUGE", ("input", "ground_truth", "generation")

# The log's name of a figure -> where the same figure stands in an evaluation by the suite openunlearning.
_SAME = {
    **{f"{prefix}_Q_A_ROUGE": ("sets", name, "rouge") for prefix, (name, _) in _SETS.items()},
    "forget_Q_A_Prob": ("sets", "forget", "probability"),
    "retain_Q_A_Prob": ("sets", "retain", "probability"),
    "ra_Q_A_Prob_normalised": ("sets", "real_authors", "probability"),
    "wf_Q_A_Prob_normalised": ("sets", "world_facts", "probability"),
    "forget_Q_A_PARA_Prob": ("sets", "forget", "paraphrased_probability"),
    "forget_truth_ratio": ("sets", "forget", "truth_ratio"),
    "retain_Truth_Ratio": ("sets", "retain", "truth_ratio"),
    "ra_Truth_Ratio": ("sets", "real_authors", "truth_ratio"),
    "wf_Truth_Ratio": ("sets", "world_facts", "truth_ratio"),
    "forget_Q_A_gibberish": ("sets", "forget", "fluency"),
    **{name: ("sets", "forget", name) for name in _TOKENWISE},
    **{name: ("comparisons", name) for name in ("mia_loss", "mia_gradnorm", *_ATTACKS, "privleak", "rel_diff")},
    "model_utility": ("aggregates", "tofu_model_utility"),
}


def read_openunlearning_log(path: Path) -> list[Record]:
    """The records of every set in the log, or in the folder that holds it. Raises UserError where it is no such log.

    A log keeps an answer's mean loss, not its tokens: the answer becomes one token with that loss, and token-wise
    metrics and attacks have the score that the log has of the item, or none. The questions are the whole prompts, as
    the log has them. The holdout texts come from the loss attack's values; gradient norms are means over parameter
    tensors, as OpenUnlearning defines them.
    """
    log, path = _log(path)
    records = [_record(log, path, prefix, index) for prefix in _SETS for index in _indices(log, path, prefix)]
    holdout = _values(log, path, "mia_loss", "holdout")
    norms = _values(log, path, "mia_gradnorm", "holdout")
    for index, value in holdout.items():
        loss = _number(value, "score", path, f"mia_loss.holdout.value_by_index.{index}")
        norm = _score(norms, path, "mia_gradnorm.holdout", index)
        records.append(
            Record(
                set="holdout",
                role=Role.HOLDOUT,
                index=_index(index, path, "mia_loss"),
                question="",
                reference="",
                full_reference="",
                answers={Probe.ANSWER: (_answer(loss),)},
                gradient_norm=norm,
                logged=_scores(log, path, index, dict.fromkeys(_ATTACKS, "holdout")),
            )
        )
    if not records:
        raise UserError(f"{path}: no evaluation log of OpenUnlearning: none of its metrics has value_by_index")
    return records


def openunlearning_figures(path: Path) -> dict[str, float]:
    """The log's own aggregates by its own names."""
    log, _ = _log(path)
    return {
        name: float(found["agg_value"])
        for name, found in log.items()
        if isinstance(found, Mapping) and isinstance(found.get("agg_value"), int | float)
    }


def beside(logged: Mapping[str, float], evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    """Each logged figure, and ours of the same where the records give one."""
    found = evaluation.model_dump()
    ours: dict[str, float | None] = dict.fromkeys(logged)
    for name in logged:
        at: Any = found
        for key in _SAME.get(name, ("nowhere",)):
            at = at.get(key, {})
        ours[name] = at.get("value")
    if evaluation.forget_quality is not None and "forget_quality" in logged:
        ours["forget_quality"] = evaluation.forget_quality.p_value
    return {name: {"logged": value, "from_records": ours[name]} for name, value in logged.items()}


def _log(path: Path) -> tuple[Mapping[str, Any], Path]:
    if path.is_dir():
        path = path / LOG_FILE
    log = read_json(path, f"give OpenUnlearning's {LOG_FILE} or its folder")
    if not isinstance(log, dict):
        raise UserError(f"{path}: is a {type(log).__name__}; OpenUnlearning's {LOG_FILE} is an object of metrics")
    if log and all(isinstance(value, int | float) or value is None for value in log.values()):
        raise UserError(f"{path}: holds aggregates alone, as {SUMMARY_FILE} does; give the {LOG_FILE} beside it")
    return log, path


def _indices(log: Mapping[str, Any], path: Path, prefix: str) -> list[str]:
    """Of all items that any of the set's metrics has."""
    found: dict[str, None] = {}
    for metric in (*_ANSWERS, _ROUGE):
        found |= dict.fromkeys(_values(log, path, f"{prefix}_{metric}"))
    return list(found)


def _record(log: Mapping[str, Any], path: Path, prefix: str, index: str) -> Record:
    name, role = _SETS[prefix]
    answers = {}
    for metric, probe in _ANSWERS.items():
        key = f"{prefix}_{metric}"
        values = _values(log, path, key)
        if index in values:
            answers[probe] = _answers(values[index], path, f"{key}.value_by_index.{index}")
    if role in WITH_OPTIONS and Probe.ANSWER in answers:
        answers[Probe.PARAPHRASED] = answers[Probe.ANSWER]  # their short answer stands for its paraphrase
    rouge = _values(log, path, f"{prefix}_{_ROUGE}").get(index, {})
    texts = [_text(rouge, key, path, f"{prefix}_{_ROUGE}.value_by_index.{index}") for key in _TEXTS] if rouge else None
    question, reference, generation = texts or ("", "", None)
    return Record(
        set=name,
        role=role,
        index=_index(index, path, prefix),
        question=question,
        reference=reference,
        full_reference=reference,
        generation=generation,
        answers=answers,
        **(_of_forget(log, path, index) if role is Role.FORGET else {}),
    )


def _of_forget(log: Mapping[str, Any], path: Path, index: str) -> dict[str, Any]:
    fluency, norms = _values(log, path, "forget_Q_A_gibberish"), _values(log, path, "mia_gradnorm", "forget")
    return {
        "fluency": _score(fluency, path, "forget_Q_A_gibberish", index),
        "gradient_norm": _score(norms, path, "mia_gradnorm.forget", index),
        "logged": _scores(log, path, index, dict.fromkeys(_TOKENWISE) | dict.fromkeys(_ATTACKS, "forget")),
    }


def _scores(log: Mapping[str, Any], path: Path, index: str, parts: Mapping[str, str | None]) -> dict[str, float]:
    """What the log says of an item by these metrics, each of one part of it, where it has a number."""
    found = {
        name: _score(_values(log, path, name, part), path, name if part is None else f"{name}.{part}", index)
        for name, part in parts.items()
    }
    return {name: score for name, score in found.items() if score is not None}


def _values(log: Mapping[str, Any], path: Path, key: str, part: str | None = None) -> Mapping[str, Any]:
    """The values by index of a metric, or of one part of it; empty where the log does not have the metric."""
    if key not in log:
        return {}
    found, name = log[key], key
    if part is not None:
        found, name = found.get(part) if isinstance(found, dict) else None, f"{key}.{part}"
    values = found.get("value_by_index") if isinstance(found, dict) else None
    if not isinstance(values, dict):
        raise UserError(f"{path}: {name}: has no value_by_index; this layout of OpenUnlearning's logs is not known")
    return values


def _answers(value: Any, path: Path, where: str) -> tuple[ScoredAnswer, ...]:
    losses = value.get("avg_loss", []) if isinstance(value, dict) else []
    many: list[Any] = losses if isinstance(losses, list) else [losses]
    if not many or not all(isinstance(loss, int | float) or loss is None for loss in many):
        raise UserError(f"{path}: {where}.avg_loss: is {losses!r}; it should be a number, or a list of them")
    return tuple(_answer(loss) for loss in many)


def _answer(mean_loss: float | None) -> ScoredAnswer:
    """`mean_loss` in nats per token; None where OpenUnlearning could not compute it."""
    return ScoredAnswer("", () if mean_loss is None else (-mean_loss,))


def _score(values: Mapping[str, Any], path: Path, key: str, index: str) -> float | None:
    return _number(values[index], "score", path, f"{key}.value_by_index.{index}") if index in values else None


def _number(value: Any, key: str, path: Path, where: str) -> float | None:
    found = value.get(key, "absent") if isinstance(value, dict) else "absent"
    if found is not None and not isinstance(found, int | float):
        raise UserError(f"{path}: {where}.{key}: is {found!r}; it should be a number")
    return found


def _text(value: Any, key: str, path: Path, where: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise UserError(f"{path}: {where}.{key}: is {found!r}; it should be a text")
    return found


def _index(index: str, path: Path, where: str) -> int:
    if not index.isdecimal():
        raise UserError(f"{path}: {where}: the index {index!r} of an item is no number")
    return int(index)
