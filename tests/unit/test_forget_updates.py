"""How the forget objective's updates are made: own optimiser state, sharpness, projection, alone and together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from moe import gpt2_folder, moe_folder
from obliviate.config import UnlearnRun, build
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import GA, GD, KL, NPO, Pass, Term
from obliviate.models import load_pretrained, load_tokenizer, text_encoder
from obliviate.schema import LoraSpec, ProjectionSpec, RectificationSpec, SharpnessSpec
from obliviate.train.batch import Texts
from obliviate.train.gram import grams, leading_directions, linear_layers
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import build as build_model
from obliviate.train.rectification import Rectification
from obliviate.train.sharpness import perturbed
from training import FORGET, REFUSALS, RETAIN, job, losses, quiet, weights

CPU = torch.device("cpu")


def ends(run: Job) -> dict[str, Tensor]:
    return weights(train(run, quiet))


def largest_difference(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def assert_resumes_bit_for_bit(make: Callable[[str], Job]) -> dict[str, Tensor]:
    """`make` gives the job in a folder of that name, with a checkpoint at every step. Returns what it ends with."""

    def dies(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 3:
            raise KeyboardInterrupt

    whole = ends(make("whole"))
    with pytest.raises(KeyboardInterrupt):
        train(make("cut"), dies)
    assert largest_difference(whole, ends(make("cut"))) == 0
    return whole


@pytest.mark.usefixtures("process_group")
class TestDual:
    def run(self, tiny: Path, folder: Path, terms: tuple[Term, ...] = (GA(), GD()), **fields: Any) -> Job:
        return replace(job(tiny, folder, terms, warmup_steps=0), **fields)

    def test_without_forget_updates_the_others_are_as_they_would_be_alone(self, tiny: Path, tmp_path: Path) -> None:
        """A forget learning rate of nothing leaves GD alone; in a shared state GA's momentum would still be there."""
        alone = ends(self.run(tiny, tmp_path / "alone", (GD(),)))
        dual, shared = (
            ends(self.run(tiny, tmp_path / updates, updates=updates, forget_learning_rate=1e-30))
            for updates in ("dual", "alternating")
        )
        assert largest_difference(alone, dual) < 1e-5  # steps are 1e-3; sums in another order
        assert largest_difference(alone, shared) > 1e-4

    def test_the_first_update_is_that_of_the_forget_objective(self, tiny: Path, tmp_path: Path) -> None:
        """So the regularizer's first loss is that after it."""
        joint, dual = (losses(self.run(tiny, tmp_path / updates, updates=updates)) for updates in ("joint", "dual"))
        assert dual[0] == pytest.approx(joint[0], rel=1e-6)
        assert dual[1] != pytest.approx(joint[1], rel=1e-4)

    def test_both_states_survive_a_resume_bit_for_bit(self, tiny: Path, tmp_path: Path) -> None:
        def make(folder: str) -> Job:
            terms = (NPO(), KL())
            run = job(tiny, tmp_path / folder, terms, checkpoint_every_steps=1, warmup_steps=0)
            return replace(
                run, updates="dual", forget_learning_rate=3e-4, sharpness=SharpnessSpec(rho=0.05),
                projection=ProjectionSpec(energy=0.7, texts=4),
            )  # fmt: skip

        assert_resumes_bit_for_bit(make)


class TestSharpness:
    def test_the_weights_move_by_rho_along_the_gradient_and_come_back(self) -> None:
        """A gradient of (3, 4) has norm 5: by rho 2 the weights move by (1.2, 1.6). Nothing else moves."""
        layer = nn.Linear(2, 1)
        layer.weight.grad = torch.tensor([[3.0, 4.0]])
        before = layer.weight.detach().clone()
        with perturbed(layer, 2.0):
            torch.testing.assert_close(layer.weight.detach() - before, torch.tensor([[1.2, 1.6]]))
            assert layer.weight.grad is None
            layer.weight.grad = torch.tensor([[7.0, 7.0]])
        assert torch.equal(layer.weight.detach(), before)
        assert layer.weight.grad.tolist() == [[7.0, 7.0]]

    def test_they_come_back_after_an_error(self) -> None:
        layer = nn.Linear(2, 1)
        layer.weight.grad = torch.ones(1, 2)
        before = layer.weight.detach().clone()
        with pytest.raises(KeyboardInterrupt), perturbed(layer, 2.0):
            raise KeyboardInterrupt
        assert torch.equal(layer.weight.detach(), before)

    @pytest.mark.usefixtures("process_group")
    def test_a_radius_of_nothing_is_no_sharpness(self, tiny: Path, tmp_path: Path) -> None:
        terms = (NPO(), GD())
        plain = job(tiny, tmp_path / "plain", terms, warmup_steps=0)
        flat, sharp = (
            replace(job(tiny, tmp_path / str(rho), terms, warmup_steps=0), sharpness=SharpnessSpec(rho=rho))
            for rho in (1e-9, 0.5)
        )
        ended = ends(plain)
        assert largest_difference(ended, ends(flat)) < 1e-4  # of moves of 4 x 1e-3
        assert largest_difference(ended, ends(sharp)) > 1e-3
        # the logged loss is that at the weights themselves
        assert read_steps(sharp.directory)[0]["parts"] == pytest.approx(read_steps(plain.directory)[0]["parts"])


class TestProjection:
    def test_directions_by_hand(self) -> None:
        """Squared lengths 9, 4 and 1 along the axes: 13/14 is 0.929 of all."""
        gram = torch.diag(torch.tensor([4.0, 9.0, 1.0]))
        assert leading_directions(gram, 0.6).abs().tolist() == [[0], [1], [0]]
        assert leading_directions(gram, 0.9).shape == (3, 2)
        assert leading_directions(gram, 0.95).shape == (3, 3)
        assert leading_directions(gram, 1.0).shape == (3, 3)
        assert leading_directions(torch.zeros(3, 3), 0.9).shape == (3, 0)

    @pytest.mark.usefixtures("process_group")
    def test_grams_are_those_of_the_plain_model(self, tiny: Path, tmp_path: Path) -> None:
        """X^T X at the real tokens of the retain texts, whatever the batches are."""
        run = job(tiny, tmp_path)
        plain, tokenizer = load_pretrained(run.model, dtype=torch.float32)
        texts = Texts(text_encoder(run.model, load_tokenizer(run.model)), FORGET, RETAIN, REFUSALS)
        name = "layers.1.mlp.down_proj"
        seen: list[Tensor] = []
        plain.get_submodule(f"model.{name}").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
        for row in RETAIN[:5]:
            plain(torch.tensor([text_encoder(run.model, tokenizer).encode_row(row).input_ids]))
        expected = sum(x.T @ x for x in seen)
        model = build_model(run.model, seed=0, activation_checkpointing=False, device=CPU)
        layers = linear_layers(model)
        assert not any("lm_head" in each for each in layers)
        for size in (2, 8):
            found = grams(
                model, layers, texts, Pass.RETAIN, [Item(retain=i) for i in range(5)], size=size,
                max_length=64, device=CPU,
            )  # fmt: skip
            torch.testing.assert_close(found[f"model.model.{name}"], expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.usefixtures("process_group")
    @pytest.mark.parametrize("lora", [None, LoraSpec(rank=4, dropout=0, merge=False)], ids=["full", "lora"])
    def test_nothing_moves_along_what_the_retain_set_uses(
        self, tiny: Path, tmp_path: Path, lora: LoraSpec | None
    ) -> None:
        """AdamW's weight decay included; whatever has no directions of its own stays as it was."""
        spec = ProjectionSpec(energy=0.6, texts=6)
        run = job(tiny, tmp_path, (NPO(),), warmup_steps=0, weight_decay=0.1)
        run = replace(run, model=run.model.model_copy(update={"lora": lora}), projection=spec)
        start = build_model(run.model, seed=run.seed, activation_checkpointing=False, device=CPU)
        before = weights(start)
        chosen = np.random.default_rng([run.seed, len(RETAIN)]).permutation(len(RETAIN))[:6].tolist()
        texts = Texts(text_encoder(run.model, load_tokenizer(run.model)), FORGET, RETAIN, REFUSALS)
        layers = linear_layers(start)
        used = grams(start, layers, texts, Pass.RETAIN, [Item(retain=i) for i in chosen], size=2,
                     max_length=64, device=CPU)  # fmt: skip
        after = ends(run)
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved
        assert moved <= {f"{name}.weight" for name in layers}
        for name in layers:
            change, basis = after[f"{name}.weight"] - before[f"{name}.weight"], leading_directions(used[name], 0.6)
            along = (change @ basis).norm()
            assert along <= 1e-5 * max(1.0, float(before[f"{name}.weight"].norm()))
            assert basis.shape[1] > 0 or not used[name].any()

    @pytest.mark.usefixtures("process_group")
    def test_conv1d_moves_across_what_it_reads(self, tmp_path: Path) -> None:
        """Its weights are [inputs, outputs]; GPT-2 has no other layers."""
        run = job(gpt2_folder(tmp_path / "model"), tmp_path, (NPO(),), warmup_steps=0, weight_decay=0.1)
        run = replace(run, projection=ProjectionSpec(energy=0.6, texts=6))
        start = build_model(run.model, seed=run.seed, activation_checkpointing=False, device=CPU)
        before = weights(start)
        chosen = np.random.default_rng([run.seed, len(RETAIN)]).permutation(len(RETAIN))[:6].tolist()
        texts = Texts(text_encoder(run.model, load_tokenizer(run.model)), FORGET, RETAIN, REFUSALS)
        layers = linear_layers(start)
        assert len(layers) == 2 * 4
        used = grams(start, layers, texts, Pass.RETAIN, [Item(retain=i) for i in chosen], size=2,
                     max_length=64, device=CPU)  # fmt: skip
        after = ends(run)
        assert {name for name in after if not torch.equal(after[name], before[name])} == {
            f"{name}.weight" for name in layers
        }
        for name in layers:
            change_DO, basis_DK = (
                after[f"{name}.weight"] - before[f"{name}.weight"],
                leading_directions(used[name], 0.6),
            )
            assert 0 < basis_DK.shape[1] < basis_DK.shape[0]
            assert (basis_DK.T @ change_DO).norm() <= 1e-5 * before[f"{name}.weight"].norm()

    @pytest.mark.usefixtures("process_group")
    @pytest.mark.parametrize("lora", [None, LoraSpec(rank=2)], ids=["full", "lora"])
    def test_experts_are_refused_before_a_step(self, tmp_path: Path, lora: LoraSpec | None) -> None:
        """Nobody would protect the retain set from what they learn."""
        run = job(moe_folder(tmp_path / "model", "mixtral"), tmp_path, (NPO(),))
        run = replace(run, model=run.model.model_copy(update={"lora": lora}), projection=ProjectionSpec())
        with pytest.raises(
            UserError, match=r"layers\.0\.mlp\.\S+: holds the weights of all experts.*method\.trainable$"
        ):
            train(run, quiet)
        assert not (run.directory / "steps.jsonl").exists()
        attention = replace(run, terms=(NPO(trainable="self_attn"),))
        train(attention, quiet)

    @pytest.mark.usefixtures("process_group")
    def test_retained_answers_change_less_than_without(self, tiny: Path, tmp_path: Path) -> None:
        def change(projection: ProjectionSpec | None) -> float:
            """Of the retain loss over the training, GD having no weight: it is only measured."""
            run = job(tiny, tmp_path / str(projection), (GA(), GD(weight=0)), warmup_steps=0, epochs=4)
            train(replace(run, updates="dual", projection=projection), quiet)
            lines = [line["parts"]["gd"] for line in read_steps(run.directory)]
            return abs(lines[-1] - lines[0])

        assert change(ProjectionSpec(energy=0.95, texts=10)) < change(None) / 2

    @pytest.mark.usefixtures("process_group")
    def test_a_retain_set_that_fills_everything_leaves_nothing_to_move(self, tiny: Path, tmp_path: Path) -> None:
        run = replace(job(tiny, tmp_path, (NPO(),)), projection=ProjectionSpec(energy=1.0, texts=10))
        with pytest.raises(UserError, match=r"projection\.energy: 1: the retain set fills every direction.* lower it"):
            train(run, quiet)


@pytest.mark.usefixtures("process_group")
class TestRectification:
    @staticmethod
    def rectified(
        *steps: tuple[list[float] | None, list[float] | None], share: float = 1.0
    ) -> list[list[float] | None]:
        """Of two weights, the second alone in its module; forget and retain gradient of each step."""
        model = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
        weights = [layer.weight for layer in model]
        optimizer = torch.optim.AdamW(model.parameters())
        rectification = Rectification(model, optimizer, share)
        found: list[list[float] | None] = []
        for forget, retain in steps:
            for gradients, then in ((forget, rectification.hold), (retain, rectification.rectify)):
                for weight, each in zip(weights, gradients or [], strict=False):
                    weight.grad = torch.tensor([[float(each)]])
                then()
            found.append([float(weight.grad) for weight in weights] if weights[0].grad is not None else None)
            for weight in weights:
                weight.grad = None
        return found

    def test_a_conflict_by_hand(self) -> None:
        """<(1, -1), (0, 2)> = -2 over 4: half of (0, 2) is added, and nothing along it is left."""
        assert self.rectified(([1, -1], [0, 2])) == [[1, 0]]
        assert self.rectified(([1, -2], [3, 4])) == [[pytest.approx(1 + 3 * 5 / 25), pytest.approx(-2 + 4 * 5 / 25)]]

    def test_what_does_not_conflict_stays_as_it_is(self) -> None:
        assert self.rectified(([1, 1], [0, 2]), ([1, 0], [0, 2]), ([3, -4], [0, 0])) == [[1, 1], [1, 0], [3, -4]]

    def test_the_running_mean_by_hand(self) -> None:
        """With a share of 1/2: (0, 1) of (0, 2), then (2, 0.5) of (4, 0). <(-1, 0), (2, 0.5)> = -2 over 4.25."""
        found = self.rectified(([1, 1], [0, 2]), ([-1, 0], [4, 0]), share=0.5)
        assert found == [[1, 1], [pytest.approx(-1 + 2 * 2 / 4.25), pytest.approx(0.5 * 2 / 4.25)]]

    def test_a_weight_that_forgetting_does_not_reach_gets_its_part(self) -> None:
        """<-1, 1> = -1 over 2: half of (1, 1), of which the second weight had nothing."""
        assert self.rectified(([-1], [1, 1])) == [[-0.5, 0.5]]
        assert self.rectified((None, [1, 1])) == [None]

    def test_a_mean_too_short_to_square_says_no_direction(self) -> None:
        """1e-30 squared is 0 in float32."""
        assert self.rectified(([-1, 1], [1e-30, 0])) == [[-1, 1]]

    @given(data=st.lists(st.tuples(*[st.floats(-5, 5, width=32)] * 4), min_size=1, max_size=4))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_it_never_runs_against_what_is_kept_and_is_no_longer_than_it_was(
        self, data: list[tuple[float, ...]]
    ) -> None:
        steps = [([a, b], [c, d]) for a, b, c, d in data]
        for (forget, retain), found in zip(steps, self.rectified(*steps), strict=True):
            assert found is not None
            assert np.dot(found, retain) >= -1e-4
            assert np.linalg.norm(found) <= np.linalg.norm(forget) + 1e-5

    def test_of_forgetting_what_is_to_be_kept_nothing_is_left(self, tiny: Path, tmp_path: Path) -> None:
        """GA and GD on the same rows have opposite gradients: after a step of both texts, none of GA's remains."""
        own = tuple((index,) for index in range(len(FORGET)))
        plain, rectified = (
            replace(job(tiny, tmp_path / name, terms, epochs=1, batch_size=8), retain=FORGET, neighbours=own)
            for name, terms in (("plain", (GA(),)), ("rectified", (GA(), GD())))
        )
        norms = []
        for run in (plain, replace(rectified, rectification=RectificationSpec())):
            train(run, quiet)
            norms.append(read_steps(run.directory)[0]["grad_norm"])
        assert norms[1] < 1e-5 * norms[0]

    def test_the_running_mean_survives_a_resume_bit_for_bit(self, tiny: Path, tmp_path: Path) -> None:
        def make(folder: str, share: float = 0.3) -> Job:
            run = job(tiny, tmp_path / folder, (NPO(), GD()), checkpoint_every_steps=1, warmup_steps=0)
            return replace(run, rectification=RectificationSpec(share=share))

        whole = assert_resumes_bit_for_bit(make)
        assert largest_difference(whole, ends(make("other", share=1))) > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "npo", "rectification": {}}, "rectification: NPO has no regularizer whose gradient says what is"),
        ({"method": "npo+gd", "rectification": {}, "updates": "dual"}, "which updates: dual asks for; set updates: jo"),
        ({"method": "npo+gd", "rectification": {}, "projection": {}}, "rectification: and projection both say"),
        ({"method": "npo+gd", "rectification": {"share": 0}}, "greater than 0"),
        ({"method": "npo", "updates": "dual"}, "updates: dual: NPO has no regularizer to alternate with"),
        ({"method": "npo+gd", "forget_learning_rate": 1e-5}, "set updates: dual"),
        ({"method": "npo+gd", "projection": {}}, "could train none of the regularizers; set updates: dual"),
        ({"method": "npo", "projection": {"energy": 1.5}}, "less than or equal to 1"),
        ({"method": "npo", "sharpness": {"rho": 0}}, "greater than 0"),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}, **keys}
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, values, where="test")


def test_a_projection_needs_a_retain_set() -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}, "method": "npo", "projection": {}}
    assert build(UnlearnRun, values, where="test").needs_retain
