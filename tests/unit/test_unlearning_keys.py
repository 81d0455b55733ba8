"""Every job passes on all that `unlearn` says of training a method: one list of keys, whoever asks."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.options import UnlearnOptions
from obliviate_recipes.comparison import CompareRun
from obliviate_recipes.continual import ContinualRun
from obliviate_recipes.fuse import FuseRun
from obliviate_recipes.snap.spec import PLACEHOLDER, SnapRun
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import SweepRun

MODEL = {"source": "some/model"}
# One value that is none of the defaults for each key; they fit npo+gd+world together.
OPTIONS: dict[str, Any] = {
    "pairing": "nearest",
    "neighbours": 3,
    "early_drop": {"bleu": 0.5},
    "stop": {"share": 0.5},
    "forget_filter": {"reference": {"source": "some/base"}, "gap": 0.3},
    "encoder": "some/encoder",
    "world": "world.jsonl",
    "updates": "dual",
    "forget_learning_rate": 2e-5,
    "sharpness": {"rho": 0.02},
    "latent": {"layers": [3], "steps": 2},
    "projection": {"energy": 0.7},
    "rectification": None,  # excludes dual updates, and is asked for below
    "stability": None,  # so does this, and dual updates
    "quantisation": {"to": "int8"},
    "tampering": {"steps": 8, "learning_rates": [1e-5]},
    "layers": None,  # as does this
    "sanitisation": None,  # excludes the adapters of fuse
    "undo": None,  # as does this
    "refusals": "refusals.txt",
    "reference": {"source": "some/base"},
    "alternatives": {"samples": 3, "engine": {"type": "hf"}},
    "kl_budget": {"nats": 0.02},
    "validation": {"patience": 2},
    "reinforcement": {"epochs": 2},
}
METHOD = "npo+gd+world"


def compared(options: dict[str, Any]) -> UnlearnRun:
    values = {"model": MODEL, "data": PLACEHOLDER, "methods": [METHOD], **options}
    config = build(CompareRun, values, where="test")
    return config.unlearning(config.methods[0], "some/model")


def own(options: dict[str, Any]) -> UnlearnRun:
    """Of an entry alone."""
    values = {"model": MODEL, "data": PLACEHOLDER, "methods": [{"method": METHOD, **options}]}
    config = build(CompareRun, values, where="test")
    return config.unlearning(config.methods[0], "some/model")


def continual(options: dict[str, Any]) -> UnlearnRun:
    tasks = {"type": "files_tasks", "forget": ["a.jsonl", "b.jsonl"], "retain": "r.jsonl"}
    config = build(ContinualRun, {"model": MODEL, "data": tasks, "methods": [METHOD], **options}, where="test")
    return config.unlearning(config.methods[0], 2, config.model, config.model)


def fused(options: dict[str, Any]) -> UnlearnRun:
    values = {"model": MODEL, "requests": {"ada": PLACEHOLDER}, "method": METHOD, **options}
    return build(FuseRun, values, where="test").unlearning("ada")


def snapped(options: dict[str, Any]) -> UnlearnRun:
    values = {
        "model": MODEL,
        "entity": {"name": "Ann Lee", "texts": ["a.txt"]},
        "neighbours": [{"name": "Bo"}, {"name": "Cy"}],
        "method": METHOD,
        "unlearn": options,
    }
    return build(SnapRun, values, where="test")._unlearning(PLACEHOLDER)


def swept(options: dict[str, Any]) -> UnlearnRun:
    values = {"model": MODEL, "data": PLACEHOLDER, "space": {"methods": {METHOD: {}}}, **options}
    return build(SweepRun, values, where="test").unlearning(Point(METHOD, {}), 0, "some/model")


JOBS = [compared, own, continual, fused, snapped, swept]


def test_the_options_are_all_there_are() -> None:
    assert set(OPTIONS) == set(UnlearnOptions.model_fields)
    defaults = build(UnlearnRun, {"model": MODEL, "data": PLACEHOLDER, "method": METHOD, "world": "w"}, where="test")
    differ = {key for key, value in OPTIONS.items() if value is not None and getattr(defaults, key) != value}
    assert differ == set(OPTIONS) - {"rectification", "stability", "layers", "sanitisation", "undo"}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_a_job_passes_on_every_option(job: Callable[[dict[str, Any]], UnlearnRun]) -> None:
    expected = build(UnlearnRun, {"model": MODEL, "data": PLACEHOLDER, "method": METHOD, **OPTIONS}, where="test")
    found = job(OPTIONS)
    assert {key: getattr(found, key) for key in OPTIONS} == {key: getattr(expected, key) for key in OPTIONS}
    assert (found.method, found.regularizers) == (expected.method, expected.regularizers)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_and_the_one_that_excludes_others(job: Callable[[dict[str, Any]], UnlearnRun]) -> None:
    found = job({"rectification": {"share": 0.3}, "world": "w.jsonl"})
    assert found.rectification is not None
    assert found.rectification.share == 0.3


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_and_stability(job: Callable[[dict[str, Any]], UnlearnRun]) -> None:
    found = job({"stability": {"feedback": 0.5}, "world": "w.jsonl"})
    assert found.stability is not None
    assert found.stability.feedback == 0.5


@pytest.mark.parametrize("job", [job for job in JOBS if job is not fused], ids=lambda job: job.__name__)
def test_and_the_one_that_fusing_excludes(job: Callable[[dict[str, Any]], UnlearnRun]) -> None:
    found = job({"sanitisation": {"strength": 3}, "layers": {"folds": 4}, "undo": {"share": 0.5}, "world": "w.jsonl"})
    assert found.undo is not None
    assert found.undo.share == 0.5
    assert found.layers is not None
    assert found.layers.folds == 4
    assert found.sanitisation is not None
    assert found.sanitisation.strength == 3
    with pytest.raises(UserError, match=r"model\.lora\.merge: false keeps an adapter, and sanitisation"):
        fused({"sanitisation": {"strength": 3}, "world": "w.jsonl"})
    with pytest.raises(UserError, match=r"model\.lora\.merge: false keeps an adapter, and undo distils whole models"):
        fused({"undo": {}, "world": "w.jsonl"})


def test_an_entrys_own_comes_before_the_jobs() -> None:
    values = {
        "model": MODEL,
        "data": PLACEHOLDER,
        "pairing": "nearest",
        "alternatives": {"samples": 3, "top_p": 0.9},
        "methods": ["me+gd", {"method": "altpo+gd", "pairing": "fresh", "alternatives": {"samples": 2}}],
    }
    config = build(CompareRun, values, ["alternatives.top_p=0.8"], where="test")
    first, second = (config.unlearning(method, "some/model") for method in config.methods)
    assert (first.pairing, first.alternatives.samples, first.alternatives.top_p) == ("nearest", 3, 0.8)
    assert (second.pairing, second.alternatives.samples, second.alternatives.top_p) == ("fresh", 2, 0.8)
    assert second.alternatives.engine == config.evaluation.engine
    again = build(CompareRun, json.loads(config.model_dump_json()), where="written")
    assert [again.unlearning(method, "some/model") for method in again.methods] == [first, second]
