"""Noise on the weights, and distance from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.methods import GD, KL, Distance, Distortion
from obliviate.train.initial import InitialWeights, distort
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import build as build_model
from training import job, quiet, weights

CPU = torch.device("cpu")


@pytest.mark.usefixtures("process_group")
class TestDistance:
    def test_by_hand(self) -> None:
        """From (1, 2) to (1.5, 0): -(0.25 + 4), and a gradient of -2 (0.5, -2), times the weight 3."""
        layer = nn.Linear(2, 1, bias=False)
        layer.weight.data = torch.tensor([[1.0, 2.0]])
        kept = InitialWeights(layer)
        layer.weight.data = torch.tensor([[1.5, 0.0]])
        assert kept.add_gradients(Distance(), 3.0, (0, 0)) == pytest.approx(-4.25)
        assert layer.weight.grad is not None
        assert layer.weight.grad.tolist() == [[-3, 12]]
        kept.add_gradients(Distance(), 1.0, (0, 0))  # to what is there
        assert layer.weight.grad.tolist() == [[-4, 16]]

    def test_training_goes_farther_with_it_and_logs_how_far(self, tiny: Path, tmp_path: Path) -> None:
        """Without weight it is measured all the same: nothing before the first step, and then as far as GD went."""
        ends = []
        for weight in (0.0, 300.0):
            run = job(tiny, tmp_path / str(weight), (Distance(weight=weight), GD()), epochs=4, warmup_steps=0)
            train(run, quiet)
            lines = [line["parts"]["distance"] for line in read_steps(run.directory)]
            assert lines[0] == 0
            ends.append(lines[-1])
        assert ends[1] < 1.1 * ends[0] < 0


@pytest.mark.usefixtures("process_group")
class TestDistortion:
    def test_the_noise_is_seeded_and_as_strong_as_it_says(self, tiny: Path, tmp_path: Path) -> None:
        spec = job(tiny, tmp_path).model

        def noise(std: float, seed: int) -> dict[str, torch.Tensor]:
            model = build_model(spec, seed=0, activation_checkpointing=False, device=CPU)
            before = weights(model)
            distort(model, std, seed)
            return {name: each - before[name] for name, each in weights(model).items()}

        one, again, twice, other = noise(0.1, 0), noise(0.1, 0), noise(0.2, 0), noise(0.1, 1)
        every = torch.cat([each.flatten() for each in one.values()])
        assert abs(float(every.std()) - 0.1) < 0.002
        assert abs(float(every.mean())) < 0.002
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert all(torch.allclose(2 * one[name], twice[name], atol=1e-5) for name in one)
        assert not any(torch.equal(one[name], other[name]) for name in one)

    def test_training_begins_with_it_and_compares_with_the_model_without(self, tiny: Path, tmp_path: Path) -> None:
        run = job(tiny, tmp_path / "noise", (Distortion(std=0.1), GD(), KL()), epochs=4, warmup_steps=0)
        train(run, quiet)
        first, *_, last = (line["parts"] for line in read_steps(run.directory))
        assert first["distortion"] == 0
        assert first["kl"] > 1e-2  # it would be 0 of the model that training begins with
        assert last["gd"] < first["gd"]
        trainable = replace(run, terms=(Distortion(trainable="mlp"), GD()), directory=tmp_path / "mlp")
        before = weights(build_model(run.model, seed=0, activation_checkpointing=False, device=CPU))
        after = weights(train(trainable, quiet))
        assert all(torch.equal(after[name], before[name]) != (".mlp." in name) for name in before)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "distortion"}, "regularizers: DISTORTION reads no text, and would train on none; add gd"),
        ({"method": "distance"}, "regularizers: DISTANCE reads no text"),
        ({"method": "distortion+gd", "model": {"source": "x", "lora": {}}}, "model.lora: distortion adds noise to the"),
        ({"method": "distance+gd", "model": {"source": "x", "lora": {}}}, "model.lora: distance compares weights with"),
        ({"method": "distortion+gd", "sharpness": {}}, "sharpness: distortion has no forget gradient"),
        ({"method": "distortion+gd", "updates": "dual"}, "updates: distortion has no forget gradient"),
        ({"method": "distance+gd", "early_drop": {}}, "early_drop: distance reads no forget text"),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, {"model": {"source": "x"}, "data": {"type": "fictitious"}, **keys}, where="test")
