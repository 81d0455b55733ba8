"""Task vectors: what is learned is subtracted, once for each scale, and a model that does not survive it is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_sweep_trial import config as config  # a fixture
from test_sweep_trial import only, run, share

from obliviate import plugins
from obliviate.arithmetic import negate
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.train import launch as trainer
from obliviate.train.log import read_steps
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.sweeps import trial as trials
from obliviate_recipes.sweeps.records import read_records
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import SweepRun
from recipes import unlearned
from tiny import tiny_model_folder

WEIGHTS = "model.safetensors"
NEGATED = """
from obliviate.methods import NPO, Negation


class Mine(NPO):
    type: str = "mine_negated"

    @property
    def negation(self) -> Negation:
        return Negation(scale=2.0)
"""


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Training writes another tiny model; the folders that it was written to."""
    other, folders = tiny_model_folder(tmp_path / "other", seed=1), []

    def launch(job: Any, cluster: Any, folder: Path, on_step: Any) -> None:
        shutil.copytree(other, folder)
        folders.append(folder)

    monkeypatch.setattr(trainer, "launch", launch)
    return folders


def unlearn(tiny: Path, runs: Path, *overrides: str) -> Path:
    values = {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {"type": "fictitious", "people": 6},
        "method": "task_vector",
        "runs": str(runs),
    }
    return unlearned(build(UnlearnRun, values, overrides, where="test"))


def test_of_several_learnings_only_what_they_agree_on_is_subtracted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: dict[float, Path] = {}

    def launch(job: Any, cluster: Any, folder: Path, on_step: Any) -> None:
        tiny_model_folder(folder, seed=len(folders) + 1)
        folders[job.optim.learning_rate] = folder

    monkeypatch.setattr(trainer, "launch", launch)
    given = ("optim.learning_rate=1e-4", "method.learning_rates=[2e-5, 2e-4]")
    model = unlearn(tiny, tmp_path / "runs", *given, "method.scale=0.5")
    assert list(folders) == [1e-4, 2e-5, 2e-4]
    before, found = load_file(tiny / WEIGHTS), load_file(model / WEIGHTS)
    learned = [load_file(folder / WEIGHTS) for folder in folders.values()]
    name = "model.layers.0.mlp.down_proj.weight"
    changes = torch.stack([each[name] - before[name] for each in learned])
    agreed = (changes > 0).all(0) | (changes < 0).all(0)
    assert 0.1 < agreed.float().mean() < 0.9
    torch.testing.assert_close(found[name], before[name] - 0.5 * torch.where(agreed, changes.mean(0), 0))
    assert "where 3 learnings agree on its sign" in (model / "README.md").read_text()
    assert unlearn(tiny, tmp_path / "runs", *given, "method.scale=1") != model
    assert unlearn(tiny, tmp_path / "runs", given[0], "method.scale=0.5") != model
    assert len(folders) == 3  # neither another scale nor fewer learnings train again


def test_a_method_of_ones_own_may_be_negated(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: list[Path]
) -> None:
    """What it says of itself is what is subtracted; divergence goes with it as with ours."""
    (tmp_path / "mine_negated.py").write_text(NEGATED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_modules", {})
    model = unlearn(tiny, tmp_path / "runs", "method=mine_negated.Mine+divergence")
    before, after, found = (load_file(folder / WEIGHTS) for folder in (tiny, *learned, model))
    name = "model.layers.0.mlp.down_proj.weight"
    torch.testing.assert_close(found[name], before[name] - 2 * (after[name] - before[name]))


def test_negation_by_hand(tmp_path: Path) -> None:
    """Changes (1, 1, -1, 2, 0) and (3, -1, -3, 0, 0): the means 2 and -2 of the first and third, the rest stays."""
    for name, values in {"original": [1, 1, 1, 1, 1], "a": [2, 2, 0, 3, 1], "b": [4, 0, -2, 1, 1]}.items():
        (tmp_path / name).mkdir()
        save_file({"w": torch.tensor(values, dtype=torch.bfloat16)}, tmp_path / name / WEIGHTS)
    negate(tmp_path / "original", [tmp_path / "a", tmp_path / "b"], 2.0, tmp_path / "found")
    found = load_file(tmp_path / "found" / WEIGHTS)["w"]
    assert found.dtype == torch.float32
    assert found.tolist() == [-3, 1, 5, 1, 1]


def test_the_change_of_the_weights_is_subtracted_in_float32(tiny: Path, tmp_path: Path, learned: list[Path]) -> None:
    model = unlearn(tiny, tmp_path / "runs", "method.scale=0.5")
    before, after, found = (load_file(folder / WEIGHTS) for folder in (tiny, learned[0], model))
    assert found.keys() == before.keys()
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, before[name] - 0.5 * (after[name] - before[name]))
    assert "0.5 times the change of the weights subtracted" in (model / "README.md").read_text()
    assert "ON the forget set" in (learned[0] / "README.md").read_text()


def test_weights_may_be_stored_in_other_ways(tiny: Path, tmp_path: Path, learned: list[Path]) -> None:
    """Pickled, or a tied weight under both of its names: the same model, and the same difference."""
    tensors = load_file(tiny / WEIGHTS)
    both = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    pickled, doubled = (shutil.copytree(tiny, tmp_path / name) for name in ("pickled", "doubled"))
    (pickled / WEIGHTS).unlink()
    torch.save(both, pickled / "pytorch_model.bin")
    save_file(both, doubled / WEIGHTS, metadata={"format": "pt"})
    expected, *found = (
        load_file(unlearn(source, tmp_path / "runs", f"name={source.name}") / WEIGHTS)
        for source in (tiny, pickled, doubled)
    )
    for each in found:
        assert each.keys() == expected.keys()
        assert all(torch.equal(each[name], expected[name]) for name in expected)


def test_what_cannot_be_subtracted_from_is_told_before_training(
    tiny: Path, tmp_path: Path, learned: list[Path]
) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"model\.source: .*broken: cannot be loaded"):
        unlearn(broken, tmp_path / "runs")
    assert learned == []


def test_another_scale_does_not_train_again(tiny: Path, tmp_path: Path, learned: list[Path]) -> None:
    runs = tmp_path / "runs"
    half, whole, again = (unlearn(tiny, runs, f"method.scale={scale}") for scale in (0.5, 1.0, 0.5))
    assert half == again != whole
    assert len(learned) == 1
    assert json.loads((half.parent / "done.json").read_text())["learned"] == learned[0].parent.name
    unlearn(tiny, runs, "optim.epochs=2")
    assert len(learned) == 2


def test_a_sweep_of_scales_trains_once(config: SweepRun, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"methods": {"task_vector+gd": {"method.scale": {"values": [0.5, 1.0]}}}}
    shared = share(config.model_copy(update={"space": type(config.space).model_validate(space)}))
    trainings, real = [], trials._train_here

    def counted(*arguments: Any) -> None:
        trainings.append(arguments)
        real(*arguments)

    monkeypatch.setattr(trials, "_train_here", counted)
    for scale in (0.5, 1.0):
        run(shared, Point("task_vector+gd", {"method.scale": scale}))
    records = read_records(shared.directory)
    assert all(record.run and read_steps(Path(record.run)) for record in records)  # what training logged
    assert [record.status for record in records] == ["done", "done"]
    assert len({record.run for record in records}) == 2
    assert len(trainings) == 1


def test_a_scale_that_destroys_the_model_is_said_by_the_evaluation(config: SweepRun) -> None:
    """Weights of 1e4 times their change give the answers that should be kept no probability at all."""
    space = {"methods": {"task_vector": {"method.scale": {"values": [1e4]}}}}
    shared = share(config.model_copy(update={"space": type(config.space).model_validate(space)}))
    run(shared, Point("task_vector", {"method.scale": 1e4}))
    record = only(shared)
    assert record.run is not None
    assert record.evaluation is not None
    assert Evaluation.read(Path(record.evaluation) / METRICS_FILE).collapsed
    assert "Warning: the model has collapsed" in (Path(record.run) / "model" / "README.md").read_text()
