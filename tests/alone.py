"""Recipes in the test's own process, without Ray: for models so small that starting workers is all that they cost."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from obliviate import cluster
from obliviate.errors import UserError
from obliviate.inference import on_demand, pool, task  # noqa: F401 - on_demand keeps the ensure_ray of its import
from obliviate.inference.hf import HFEngine
from obliviate.schema import EngineSpec, ModelSpec
from obliviate.train import adapters, here, launch
from obliviate.train.job import Job, Reporter
from obliviate.train.produce import train_and_write
from obliviate_recipes.attacking import Attacking
from obliviate_recipes.stages.measure import Measuring


class Pool:
    def __init__(self, model: ModelSpec, spec: EngineSpec, **_: Any) -> None:
        self._model, self._spec = model, spec

    def __enter__(self) -> HFEngine:
        return HFEngine.open(self._model, self._spec)

    def __exit__(self, *_: object) -> None:
        """There is nothing to close."""


def _launch(job: Job, cluster: object, folder: Path, on_step: Reporter) -> None:
    with here.alone() as device:
        train_and_write(job, folder, on_step, device=device)


def _watched(jobs: Sequence[Job], directory: Path, cluster: object, on_step: Reporter) -> None:
    here.watch(jobs)


def _adapters(
    requests: Mapping[str, adapters.AdapterJob], cluster: object, concurrency: int, on_done: Callable[[str], None]
) -> None:
    for name, request in requests.items():
        outcome = adapters.train_adapter(request, request.places, threads=1)
        if outcome.error is not None:
            raise UserError(outcome.error)
        on_done(name)


def _in_task(spec: EngineSpec, address: str | None, function: Any, *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, of recipes that are loaded already and whose engine is Hugging Face's."""
    monkeypatch.setattr(cluster, "ensure_ray", lambda *_, **__: None)
    monkeypatch.setattr(launch, "launch", _launch)
    monkeypatch.setattr(launch, "launch_watched", _watched)
    monkeypatch.setattr(adapters, "launch_adapters", _adapters)
    monkeypatch.setattr(pool, "EnginePool", Pool)
    monkeypatch.setattr(task, "in_task", _in_task)
    monkeypatch.setattr(Attacking, "within", True)
    prepared = Measuring.__post_init__

    def within(measuring: Measuring) -> None:
        measuring.within = True
        prepared(measuring)

    monkeypatch.setattr(Measuring, "__post_init__", within)
