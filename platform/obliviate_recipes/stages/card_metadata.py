"""What a model card says to the hub, and what it does not say: where things lie on this machine."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from obliviate import storage
from obliviate.runs import RUN_FILE, record_of
from obliviate.source import PACKAGE_PREFIX
from obliviate_eval.summary import Evaluation

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TAGS = ["machine-unlearning", "obliviate"]


def hub_id(source: str) -> str | None:
    """The source, where it is the id of something on the hub."""
    whole = HUB_ID.fullmatch(source) and not source.startswith(PACKAGE_PREFIX) and not Path(source).exists()
    return source if whole else None


def base_on_hub(source: str) -> str | None:
    """The hub's id of the model that a line of our runs began with; None where it did not come from there."""
    while source.startswith(("/", "~", ".")) or "://" in source:
        training = storage.local(source).expanduser().parent
        if not (training / RUN_FILE).exists():
            return None
        source = record_of(training)["config"]["model"]["source"]
    return hub_id(source)


def without_places(value: Any) -> Any:
    """With the last two parts of each absolute path alone: a run and its model, or a folder and its file."""
    if isinstance(value, Mapping):
        return {key: without_places(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(each) for each in value]
    if isinstance(value, str) and (value.startswith(("/", "~/")) and "\n" not in value):
        return "/".join(PurePath(value).parts[-2:]).lstrip("/")
    return value


def metadata(
    name: str, config: Mapping[str, Any], measured: Iterable[Evaluation], license_id: str | None = None
) -> str:
    """As YAML between dashes, in the hub's format, with the figures as results."""
    from huggingface_hub import EvalResult, ModelCardData

    data = config.get("data", {})
    on_hub = hub_id(str(data.get("source", "")))
    where = on_hub or data.get("type", "own")
    results = [
        EvalResult("text-generation", where, f"{where} ({of})", metric, round(figure.value, 6), dataset_config=of,
                   metric_name=f"{metric}, suite {evaluation.suite}", task_name="Unlearning")
        for evaluation in measured
        for of, row in (*evaluation.sets.items(), ("all sets", evaluation.aggregates))
        for metric, figure in row.items()
        if figure.value is not None
    ]  # fmt: skip
    card = ModelCardData(
        base_model=base_on_hub(config["model"]["source"]), library_name="transformers", license=license_id,
        pipeline_tag="text-generation", tags=TAGS, datasets=None if on_hub is None else [on_hub],
        model_name=name, eval_results=results or None,
    )  # fmt: skip
    return f"---\n{card.to_yaml()}\n---"
