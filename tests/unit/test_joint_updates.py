"""How forgetting and keeping share an optimiser's state (DualOptim+), and an update (StableUN)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.methods import GD, NPO
from obliviate.schema import LoraSpec, OptimSpec, QuantisationSpec, StabilitySpec
from obliviate.train.job import Job
from obliviate.train.loop import train
from obliviate.train.shared_base import SharedBase
from obliviate.train.stability import Stability
from training import job, quiet, weights, whole_and_resumed


class TestSharedBase:
    @staticmethod
    def moved(*gradients: tuple[int, float], **optim: Any) -> list[float]:
        """A weight of 1 after each gradient, of objective 0 or 1, at a rate of 0.1."""
        model = nn.Linear(1, 1, bias=False)
        model.weight.data = torch.ones(1, 1)
        spec = OptimSpec(learning_rate=0.1, **{"weight_decay": 0, **optim})
        first = SharedBase(model, spec)
        both, found = [first, SharedBase(model, spec, first)], []
        for objective, gradient in gradients:
            model.weight.grad = torch.tensor([[gradient]])
            both[objective].step()
            found.append(float(model.weight.detach()))
        return found

    def test_by_hand(self) -> None:
        """2: own 2 and 4, base 0, a step of -0.1. -1: base 2 and 4; own -1 - 2 = -3 and 1 - 4 = -3; in all -1 and 1.
        Then 2 of the first again: the base is (0.9 x 0.2 - 0.1) / 0.19 = 0.421053 and (0.999 x 0.004 + 0.001) /
        0.001999 = 2.499250; own (0.9 x 0.2 + 0.1 x 1.578947) / 0.19 = 1.778393 and (0.95 x 0.2 + 0.05 x 1.500750) /
        0.0975 = 2.718333; in all 2.199446 / sqrt(5.217583) = 0.962895."""
        found = self.moved((0, 2.0), (1, -1.0), (0, 2.0))
        assert found == pytest.approx([0.9, 1.0, 1.0 - 0.0962895], abs=1e-6)

    def test_an_objective_begins_where_the_other_has_led_it(self) -> None:
        """The same gradient: nothing of its own, and the base's whole step."""
        assert self.moved((0, 3.0), (1, 3.0)) == pytest.approx([0.9, 0.8], abs=1e-6)

    def test_second_moments_that_cancel_make_no_longer_step(self) -> None:
        """2, then 1e-4 of the other: own -2 and -4, so that its moments are nearly 0 and nearly 0."""
        found = self.moved((0, 2.0), (1, 1e-4))
        assert abs(found[1] - found[0]) <= 0.1 + 1e-6

    def test_weights_decay(self) -> None:
        assert self.moved((0, 3.0), weight_decay=0.5) == pytest.approx([0.95 - 0.1])


class TestStability:
    @staticmethod
    def joined(here: list[float], nearby: list[float], retain: list[float], feedback: float = 1.0) -> list[float]:
        layer = nn.Linear(2, 1, bias=False)
        stability = Stability(layer, StabilitySpec(feedback=feedback))
        layer.weight.grad = torch.tensor([here])
        before = layer.weight.detach().clone()

        def gradients() -> tuple[None, float]:
            assert float((layer.weight.detach() - before).norm()) == pytest.approx(0.01, rel=1e-4)
            layer.weight.grad = torch.tensor([nearby])
            return None, 7.0

        assert stability.look_around(gradients) == 7
        assert torch.equal(layer.weight.detach(), before)
        assert layer.weight.grad is None
        layer.weight.grad = torch.tensor([retain])
        stability.join()
        found: list[float] = layer.weight.grad[0].tolist()
        return found

    @pytest.mark.usefixtures("process_group")
    def test_by_hand(self) -> None:
        """(1, -1) + 0.5 (2, 0) = (2, -1), against (0, 2) by -2 over 4: (2, 0) and (0, 2). No conflict: the sum."""
        assert self.joined([1.0, -1], [2.0, 0], [0.0, 2], 0.5) == [2, 2]
        assert self.joined([1.0, 1], [2.0, 0], [0.0, 2]) == [3, 3]
        assert self.joined([1.0, -1], [0.0, 0], [0.0, 0]) == [1, -1]


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(
    "fields",
    [
        {"updates": "dual_plus", "forget_learning_rate": 3e-4},
        {"stability": StabilitySpec(rho=0.05), "quantisation": QuantisationSpec()},
    ],
    ids=["dual_plus", "stability"],
)
@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, dropout=0)], ids=["full", "lora"])
def test_a_resumed_run_is_the_whole_one(
    tiny: Path, tmp_path: Path, fields: dict[str, Any], lora: LoraSpec | None
) -> None:
    def make(folder: str) -> Job:
        run = job(tiny, tmp_path / folder, (NPO(), GD()), checkpoint_every_steps=1, warmup_steps=0)
        return replace(run, model=run.model.model_copy(update={"lora": lora}), **fields)

    whole, cut = whole_and_resumed(make)
    plain = weights(train(replace(make("plain"), **{**dict.fromkeys(fields), "updates": "dual"}), quiet))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(not torch.equal(whole[name], plain[name]) for name in whole)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "npo", "updates": "dual_plus"}, "updates: dual_plus: NPO has no regularizer to alternate with"),
        ({"method": "npo", "stability": {}}, "stability: NPO has no regularizer that forgetting could give way to"),
        ({"method": "npo+gd", "stability": {}, "updates": "dual"}, "updates: dual makes two; set updates: joint"),
        ({"method": "npo+gd", "stability": {}, "sharpness": {}}, "a projection of its own; remove sharpness"),
        ({"method": "npo+gd", "stability": {"rho": 0}}, "greater than 0"),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, {"model": {"source": "x"}, "data": {"type": "fictitious"}, **keys}, where="test")
