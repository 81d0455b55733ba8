"""Runs of later methods in an object store: what one node has made another finds, and goes on with what is unfinished.

The store is a folder used like one; a node is a cache of its own.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_adapters import WEIGHTS as ADAPTER
from test_adapters import config as fuse_config
from test_adapters import trained as trained  # a fixture
from test_forget_filter import RETAIN, ROWS, Scripted
from test_forget_filter import config as filter_config
from test_forget_filter import scripted as scripted  # a fixture

from obliviate import storage
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus
from obliviate.labels import not_removed
from obliviate.methods import GA, GD
from obliviate.runs import RUN_FILE, whole_folder, write_json
from obliviate.schema import ModelSpec
from obliviate.train import launch as trainer
from obliviate.train.log import read_steps
from obliviate.train.loop import single_process, train
from recipes import Told, fused, unlearned, with_filter
from tiny import tiny_model_folder
from training import FORGET, Job, job, quiet, weights

WEIGHTS = "model.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """From now on this is the node of that name."""
    return lambda node: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nodes" / node))


def test_a_task_vector_learned_on_one_node_is_subtracted_on_another(
    tiny: Path, tmp_path: Path, store: str, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[Path] = []

    def launch(job: Job, cluster: Any, folder: Path, on_step: Any) -> None:
        with whole_folder(folder) as temporary:
            tiny_model_folder(temporary, seed=1)
        learned.append(folder)

    monkeypatch.setattr(trainer, "launch", launch)

    def unlearn(scale: float) -> Path:
        values = {
            "model": {"source": str(tiny), "max_length": 64},
            "data": {"type": "fictitious", "people": 6},
            "method": {"type": "task_vector", "scale": scale},
            "runs": f"{store}/runs",
        }
        return unlearned(build(UnlearnRun, values, where="test"))

    on("a")
    first = unlearn(0.5)
    on("b")
    again, whole = unlearn(0.5), unlearn(1.0)
    assert len(learned) == 1
    assert storage.name(again).startswith(f"{store}/runs/unlearn-")
    assert first != again  # another node's disk
    assert not again.exists()  # whole already: nothing but its record was fetched
    half, full, before = (load_file(folder / WEIGHTS) for folder in (storage.fetch(again), whole, tiny))
    for name, value in before.items():
        torch.testing.assert_close(full[name] - value, 2 * (half[name] - value), rtol=1e-4, atol=1e-6)


def test_adapters_of_one_node_are_fused_on_another(
    tiny: Path, tmp_path: Path, store: str, on: Callable[[str], None], trained: list[str]
) -> None:
    """The base lies in the store as well, and the adapter names it so that every node understands."""
    on("a")
    base = f"{store}/base/model"
    with whole_folder(storage.local(base)) as temporary:
        for file in tiny.iterdir():
            (temporary / file.name).write_bytes(file.read_bytes())
    model = {"source": base, "compute_dtype": "float32", "max_length": 64, "lora": {"rank": 2, "merge": False}}
    keys = {"model": model, "runs": f"{store}/runs"}
    both = load_file(fused(fuse_config(tiny, tmp_path, "Ada", "Bob", **keys)) / ADAPTER)
    (ada,) = (run for run in storage.children(storage.local(f"{store}/runs")) if run.name.startswith("adapter-ada"))
    on("b")
    adapters = {"Ada": f"{store}/runs/{ada.name}"}
    later = fused(fuse_config(tiny, tmp_path, "Bob", adapters=adapters, title="again", **keys))
    assert trained == ["Ada", "Bob"]
    found = load_file(later / ADAPTER)
    for name in found:
        if ".lora_A." in name:
            b = name.replace(".lora_A.", ".lora_B.")
            torch.testing.assert_close(found[b] @ found[name], both[b] @ both[name], rtol=1e-4, atol=1e-5)
    assert json.loads((later / "adapter_config.json").read_text())["base_model_name_or_path"] == base
    in_store = Path(store.removeprefix("file://")) / "runs" / later.parent.name
    assert not [each.name for each in in_store.iterdir() if ".tmp" in each.name]


class Drops:
    """Row 0 after the first epoch, and nothing more."""

    max_new_tokens = 4

    def __call__(self, rows: Any, said: Any) -> list[bool]:
        return [row == FORGET[0] for row in rows]


def test_two_optimisers_and_early_drop_go_on_on_another_node(
    tiny: Path, tmp_path: Path, store: str, on: Callable[[str], None]
) -> None:
    def run(directory: Path) -> Job:
        made = job(tiny, directory, (GA(), GD()), epochs=3, checkpoint_every_steps=1)
        return replace(made, updates="dual", forget_learning_rate=5e-4, drop=Drops())

    def dies(metrics: Any) -> None:
        if metrics["step"] == 4:
            raise KeyboardInterrupt

    with single_process():
        undisturbed = weights(train(run(tmp_path / "whole"), quiet))
        on("a")
        with pytest.raises(KeyboardInterrupt):
            train(run(storage.local(f"{store}/run")), dies)
        on("b")
        there = storage.local(f"{store}/run")
        resumed = weights(train(run(there), quiet))
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    assert [line["early_drop"]["dropped"] for line in read_steps(there) if "early_drop" in line] == [[0], []]


def test_a_filter_of_one_node_is_not_asked_again_on_another(
    tiny: Path, store: str, on: Callable[[str], None], scripted: Scripted
) -> None:
    config = filter_config(tiny, Path("unused")).model_copy(update={"runs": f"{store}/runs"})
    on("a")
    kept, _ = with_filter(config, Corpus(ROWS, RETAIN, ()))
    on("b")
    shown = Told()
    again, file = with_filter(config, Corpus(ROWS, RETAIN, ()), shown)
    assert kept.forget == again.forget != ROWS
    assert scripted.calls == 2
    assert file is not None
    assert file.exists()
    assert f"every row: {store}/runs/filter-" in shown.text


def test_what_hides_is_told_without_fetching_the_model(store: str, on: Callable[[str], None]) -> None:
    on("a")
    run = storage.local(f"{store}/run")
    write_json(run / RUN_FILE, {"verb": "unlearn", "config": {"method": {"type": "icku"}}})
    with whole_folder(run / "model") as temporary:
        (temporary / "weights").write_bytes(b"many")
    on("b")
    assert not_removed(ModelSpec(source=f"{store}/run/model")) == "icku, not removed from the weights"
    assert not (storage.local(f"{store}/run") / "model").exists()
