"""Latent adversarial training: what moves hidden states, how far, in which texts, and that nothing else changes."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from obliviate.config import UnlearnRun, build
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import DPO, GA, GD, IDK, NPO, RMU, Activations, Pass, Positions, Term, label_of
from obliviate.schema import LatentSpec, LoraSpec, SharpnessSpec
from obliviate.scoring import Activation, Stat
from obliviate.train.batch import Batch, collate, texts_of
from obliviate.train.job import Job
from obliviate.train.latent import moved, moves
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import ScoredModel
from obliviate.train.model import build as build_model
from obliviate.train.surprise import TRUE_ANSWERS
from training import job, losses, quiet, weights

pytestmark = pytest.mark.usefixtures("process_group")
CPU = torch.device("cpu")
SPEC = LatentSpec(layers=(0,), epsilon=0.05, steps=4)


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> ScoredModel:
    return build_model(job(tiny, tmp_path).model, seed=0, activation_checkpointing=False, device=CPU)


@pytest.fixture
def texts(tiny: Path, tmp_path: Path) -> Callable[..., Batch]:
    run = job(tiny, tmp_path)

    def of(anchors: list[int], *passes: Any) -> Batch:
        needs = {each: {Stat.LOGP: Positions.ANSWER} for each in passes or TRUE_ANSWERS}
        return collate(texts_of(run), [Item(anchor) for anchor in anchors], needs, 64)

    return of


def logp(model: ScoredModel, batch: Batch, within: Any = None) -> Tensor:
    """Of each text's answer, summed."""
    wanted = {str(Pass.FORGET): (batch.rows[Pass.FORGET], batch.answer_BT, (Stat.LOGP,))}
    with within or nullcontext(), torch.no_grad():
        return model(batch.input_ids_BT, batch.attention_BT, wanted, {})[f"{Pass.FORGET}/{Stat.LOGP}"].sum(-1)


class TestMoves:
    def test_the_first_step_is_along_the_gradients_sign(self, model: ScoredModel, texts: Callable[..., Batch]) -> None:
        """One step of 2.5 epsilon ends at epsilon. The token that ends the answer predicts nothing: it stays, and so
        does padding."""
        batch = texts([0, 2])
        found = moves(model, batch, SPEC.model_copy(update={"steps": 1}), 0)[0]
        seen_BT = batch.attention_BT.roll(-1, 1).bool() & batch.attention_BT.bool()
        seen_BT[:, -1] = False
        moved_BT = (found.abs() - 0.05).abs().amax(-1) < 1e-6
        assert torch.equal(moved_BT, seen_BT)
        assert not found[~seen_BT].any()

    def test_answers_become_likelier_within_the_radius(self, model: ScoredModel, texts: Callable[..., Batch]) -> None:
        batch = texts([0, 1, 2])
        found = moves(model, batch, SPEC, 0)
        assert float(found[0].abs().max()) <= 0.05 + 1e-6
        after = logp(model, batch, moved(model, found, batch, batch))
        assert (after > logp(model, batch) + 0.01).all()
        wider = moves(model, batch, SPEC.model_copy(update={"epsilon": 0.2}), 0)
        assert (logp(model, batch, moved(model, wider, batch, batch)) > after).all()

    def test_a_text_is_moved_as_it_would_be_alone(self, model: ScoredModel, texts: Callable[..., Batch]) -> None:
        """Texts of other lengths beside it, which begin alike."""
        spec = LatentSpec(layers=("model.layers.0.mlp", 1), epsilon=0.05, steps=3)
        together, alone = moves(model, texts([0, 1, 2]), spec, 0), moves(model, texts([1]), spec, 0)
        for layer, move_1TD in alone.items():
            torch.testing.assert_close(together[layer][1, : move_1TD.shape[1]], move_1TD[0], rtol=0, atol=1e-6)

    def test_parameters_get_no_gradient_and_texts_are_packed_again(
        self, model: ScoredModel, texts: Callable[..., Batch]
    ) -> None:
        packs = model.packs
        moves(model, texts([0]), SPEC, 0)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert model.packs is packs is True


class TestMoved:
    def test_another_answer_is_moved_as_far_as_it_agrees(self, model: ScoredModel, texts: Callable[..., Batch]) -> None:
        """What the first layer puts out: moved in the prompt, which both texts have, and not in the refusal."""
        true, both = texts([0, 1]), texts([0, 1], Pass.FORGET, Pass.FORGET_IDK)
        found = moves(model, true, SPEC, 0)

        def read(within: Any) -> dict[str, Tensor]:
            stats = (Activation(0),)
            at = Positions.SEQUENCE
            wanted = {str(each): (rows, both.wanted_BT(each, at), stats) for each, rows in both.rows.items()}
            with within, torch.no_grad():
                return model(both.input_ids_BT, both.attention_BT, wanted, {})  # type: ignore[no-any-return]

        before, after = read(moved(model, {}, true, both)), read(moved(model, found, true, both))
        length = true.input_ids_BT.shape[1]
        change = {name: (after[name] - before[name])[:, :length] for name in before}
        torch.testing.assert_close(change["forget/activation_0"], found[0], rtol=0, atol=1e-5)
        for text, (key, prompt) in enumerate(
            zip(both.keys[Pass.FORGET_IDK], true.answer_BT.int().argmax(1), strict=True)
        ):
            assert key[1][1].startswith("I ")
            of_refusal = change["forget_idk/activation_0"][text]
            torch.testing.assert_close(of_refusal[:prompt], found[0][text, :prompt], rtol=0, atol=1e-5)
            assert of_refusal[prompt + 1 :].abs().max() < 1e-6


class TestTraining:
    def ends(self, tiny: Path, folder: Path, terms: tuple[Term, ...], **fields: Any) -> tuple[Job, dict[str, Tensor]]:
        run = replace(job(tiny, folder, terms, warmup_steps=0), **fields)
        return run, weights(train(run, quiet))

    @pytest.mark.parametrize("terms", [(NPO(), GD()), (DPO(),), (RMU(layer=0), Activations(layer=0))], ids=label_of)
    def test_a_radius_of_nothing_changes_nothing(self, tiny: Path, tmp_path: Path, terms: tuple[Term, ...]) -> None:
        plain, ended = self.ends(tiny, tmp_path / "plain", terms)
        still, same = self.ends(tiny, tmp_path / "still", terms, latent=LatentSpec(layers=(0,), epsilon=1e-9, steps=1))
        assert max(float((ended[name] - same[name]).abs().max()) for name in ended) < 1e-4  # of moves of 4 x 1e-3
        first, again = (read_steps(run.directory)[0]["parts"] for run in (plain, still))
        assert first == pytest.approx(again, rel=1e-4)

    def test_the_objective_is_taken_where_the_answers_are_likelier(self, tiny: Path, tmp_path: Path) -> None:
        plain, _ = self.ends(tiny, tmp_path / "plain", (GA(), GD()))
        latent, _ = self.ends(tiny, tmp_path / "latent", (GA(), GD()), latent=SPEC)
        first, moved_first = (read_steps(run.directory)[0]["parts"] for run in (plain, latent))
        assert moved_first["ga"] > first["ga"] + 1e-3
        assert moved_first["gd"] == pytest.approx(first["gd"], rel=1e-5)

    @pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, dropout=0.2)], ids=["full", "lora"])
    def test_recomputed_activations_are_moved_alike(self, tiny: Path, tmp_path: Path, lora: LoraSpec | None) -> None:
        found = []
        for checkpointed in (False, True):
            run = job(tiny, tmp_path / str(checkpointed), (IDK(), GD()), activation_checkpointing=checkpointed)
            model = run.model.model_copy(update={"lora": lora})
            found.append(losses(replace(run, model=model, latent=SPEC, sharpness=SharpnessSpec(rho=0.05))))
        assert found[0] == pytest.approx(found[1], rel=1e-5)

    def test_a_layer_that_there_is_not(self, tiny: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^latent: layer: 9: the model has 2 layers, 0 to 1$"):
            self.ends(tiny, tmp_path, (GA(),), latent=LatentSpec(layers=(9,)))


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ({}, r"latent\.layers: "),
        ({"layers": []}, r"latent\.layers: "),
        ({"layers": [-1]}, r"is -1; layers are counted from 0"),
        ({"layers": [1], "epsilon": 0}, r"latent\.epsilon: .*greater than 0"),
        ({"layers": [1], "steps": 0}, r"latent\.steps: .*greater than or equal to 1"),
    ],
)
def test_mistakes_are_one_line(latent: dict[str, Any], message: str) -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}, "method": "npo", "latent": latent}
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, values, where="test")
