"""Forgetting that is seen through rounded weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe import gpt2_folder, moe_folder
from obliviate.config import UnlearnRun, build
from obliviate.errors import UserError
from obliviate.linear import linear_weights
from obliviate.methods import GA, GD, Term
from obliviate.quantise import quantise, quantised
from obliviate.runs import content_hash
from obliviate.schema import LoraSpec, QuantisationSpec
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import ScoredModel
from obliviate.train.model import build as build_model
from obliviate.train.quantisation import Quantisation
from training import job, quiet, weights

CPU = torch.device("cpu")
INT4 = QuantisationSpec()


def opened(run: Job, lora: LoraSpec | None = None) -> ScoredModel:
    spec = run.model.model_copy(update={"lora": lora})
    return build_model(spec, seed=0, activation_checkpointing=False, device=CPU)


def first_parts(run: Job) -> dict[str, float]:
    train(run, quiet)
    found: dict[str, float] = read_steps(run.directory)[0]["parts"]
    return found


@pytest.mark.usefixtures("process_group")
class TestWeights:
    @pytest.mark.parametrize("kind", ["tiny", "conv1d", "experts"])
    def test_linear_layers_are_as_a_deployment_has_them_and_come_back(
        self, tiny: Path, tmp_path: Path, kind: str
    ) -> None:
        folders = {"conv1d": gpt2_folder, "experts": lambda folder: moe_folder(folder, "mixtral")}
        source = folders[kind](tmp_path / "model") if kind in folders else tiny
        model = opened(job(source, tmp_path))
        quantise(source, "int4_g128", tmp_path / "deployed")
        deployed = weights(opened(job(tmp_path / "deployed", tmp_path)))
        linear = {f"model.{name}" for name in linear_weights(model.causal_lm)}
        before = weights(model)
        with Quantisation(model, "int4_g128", merged=False).rounded():
            within = weights(model)
        changed = {name for name in before if not torch.equal(before[name], within[name])}
        assert changed
        assert changed <= linear
        for name in changed:
            torch.testing.assert_close(within[name], deployed[name], atol=0, rtol=0)
        assert all(torch.equal(each, before[name]) for name, each in weights(model).items())

    @pytest.mark.parametrize("merged", [True, False])
    def test_an_adapter_that_will_be_merged_is_rounded_with_its_weight(
        self, tiny: Path, tmp_path: Path, merged: bool
    ) -> None:
        model = opened(job(tiny, tmp_path), LoraSpec(rank=2, dropout=0))
        layer: Any = model.get_submodule("model.base_model.model.model.layers.0.mlp.up_proj")
        with torch.no_grad():
            layer.lora_B["default"].weight.fill_(0.01)

        def parts() -> tuple[Tensor, Tensor]:
            factors = (layer.lora_B["default"].weight.full_tensor(), layer.lora_A["default"].weight.full_tensor())
            return layer.base_layer.weight.full_tensor().clone(), layer.scaling["default"] * factors[0] @ factors[1]

        weight, change = parts()
        with Quantisation(model, "int4_g128", merged=merged).rounded():
            found, same = parts()
        torch.testing.assert_close(same, change)
        if merged:
            expected = quantised(weight + change, "int4_g128").values.float()
            torch.testing.assert_close(found + same, expected, atol=1e-5, rtol=0)
        else:
            torch.testing.assert_close(found, quantised(weight, "int4_g128").values.float(), atol=0, rtol=0)


@pytest.mark.usefixtures("process_group")
class TestTraining:
    def test_forgetting_sees_rounded_weights_and_the_rest_does_not(self, tiny: Path, tmp_path: Path) -> None:
        """The first losses: GA's is the quantised model's, GD's the model's own."""
        terms: tuple[Term, ...] = (GA(), GD())
        quantise(tiny, "int4_g128", tmp_path / "deployed")
        plain = first_parts(job(tiny, tmp_path / "plain", terms))
        deployed = first_parts(job(tmp_path / "deployed", tmp_path / "of deployed", terms))
        found = first_parts(replace(job(tiny, tmp_path / "aware", terms), quantisation=INT4))
        assert found["gd"] == pytest.approx(plain["gd"], rel=1e-6)
        # All but the linear layers is bfloat16 in a deployment.
        assert found["ga"] == pytest.approx(deployed["ga"], rel=1e-3)
        assert abs(found["ga"] - plain["ga"]) > 2 * abs(found["ga"] - deployed["ga"])

    def test_the_gradient_at_the_rounded_weights_moves_the_weights(self, tiny: Path, tmp_path: Path) -> None:
        """Straight through: the first update is AdamW's of the quantised model's gradient, made of the weights."""
        run = job(tiny, tmp_path / "aware", (GA(),), epochs=0.5, warmup_steps=0, weight_decay=0)
        model = opened(run)
        before, name = weights(model), "model.model.layers.0.mlp.up_proj.weight"
        after = weights(train(replace(run, quantisation=INT4), quiet))
        plain = weights(train(replace(run, directory=tmp_path / "plain"), quiet))
        moved = after[name] - before[name]
        assert float(moved.abs().max()) <= 1.01e-3  # one step of AdamW: not by what rounding moves
        assert not torch.equal(moved, plain[name] - before[name])


@pytest.mark.usefixtures("process_group")
def test_adapters_of_experts_are_refused(tmp_path: Path) -> None:
    run = job(moe_folder(tmp_path / "model", "mixtral"), tmp_path)
    with pytest.raises(UserError, match=r"^quantisation: adapters of fused experts are not rounded"):
        Quantisation(opened(run, LoraSpec(rank=2)), "int4_g128", merged=True)


def test_what_does_not_go_together() -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}, "quantisation": {}}
    for method, message in (
        ("task_vector", "quantisation: task_vector forgets by a subtraction after training"),
        ("repselect", "quantisation: repselect has no optimiser's updates"),
        ("distortion+gd", "quantisation: distortion has no forget gradient"),
    ):
        with pytest.raises(UserError, match=message):
            build(UnlearnRun, {**values, "method": method}, where="test")
    with pytest.raises(UserError, match="'int4_g128' or 'int8'"):
        build(UnlearnRun, {**values, "method": "ga", "quantisation": {"to": "nf4"}}, where="test")


def test_a_run_without_it_has_the_hash_that_it_had_before_there_was_one() -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}, "method": "ga"}
    plain, aware = (
        build(UnlearnRun, {**values, **more}, where="test").model_dump(mode="json")
        for more in ({}, {"quantisation": {}})
    )
    assert "quantisation" not in plain
    assert content_hash(plain) != content_hash(aware)
