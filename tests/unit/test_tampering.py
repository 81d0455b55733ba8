"""Tamper resistance (TAR): what an attack trains on, what is taken of its points, and what it leaves behind."""

from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import GD, ME, Pass, Term
from obliviate.schema import LatentSpec, LoraSpec, QuantisationSpec, SharpnessSpec, StabilitySpec, TamperingSpec
from obliviate.scoring import Stat
from obliviate.train.batch import collate, texts_of
from obliviate.train.job import Job
from obliviate.train.loop import train
from obliviate.train.surprise import TRUE_ANSWERS, surprise
from obliviate.train.tampering import Tampering
from obliviate_recipes.stages.unlearning import check_data
from training import FORGET, RETAIN, job, losses, quiet, weights, whole_and_resumed

pytestmark = pytest.mark.usefixtures("process_group")
SPEC = TamperingSpec(steps=4, every=2, learning_rates=(1e-3,), batch_size=3)
RESISTED: tuple[Term, ...] = (ME(weight=1, direction="model_to_uniform"), GD())


class Two(nn.Module):
    """A weight that the attack moves, and one that nothing reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.moved, self.still = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.moved.weight)


def test_by_hand(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's steps along a gradient that never changes are all of the rate's length, and the weight decays by 0.01 of
    the rate: 1 -> 0.899 -> 0.798101 -> 0.697302899 -> 0.596605596101. A gradient 10 w at the second and the last, which
    counts twice as much: 10 (0.798101 + 2 x 0.596605596101) / 3 = 6.63770730734."""
    model: Any = Two()

    def attacked(*arguments: Any) -> float:
        model.moved.weight.grad = torch.full((1, 1), 7.0)
        return 5.0

    monkeypatch.setattr("obliviate.train.tampering.add_gradients", attacked)
    run = job(tiny, tmp_path)
    spec = TamperingSpec(steps=4, every=2, learning_rates=(0.1,), growth=log(2) / 2)
    seen = []

    def gradients() -> tuple[dict[int, float], float]:
        assert model.moved.weight.grad is None
        seen.append(float(model.moved.weight.detach()))
        model.moved.weight.grad = 10 * model.moved.weight.detach().clone()
        return {2: seen[-1]}, 11.0

    terms, tokens = Tampering(run, model, texts_of(run), spec).along(0, gradients)
    assert seen == pytest.approx([0.798101, 0.596605596101])
    assert terms == pytest.approx({2: 0.663770730734})
    assert float(model.moved.weight.grad) == pytest.approx(6.63770730734)
    assert model.still.weight.grad is None
    assert tokens == 4 * 5 + 2 * 11
    assert float(model.moved.weight.detach()) == 1


def attacks(run: Job, spec: TamperingSpec, step: int, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each step of an attack."""
    rows: list[list[int]] = []

    def attacked(_: Job, __: Any, ___: Any, items: Sequence[Item], ____: Any) -> float:
        rows.append([item.anchor for item in items])
        return 0.0

    monkeypatch.setattr("obliviate.train.tampering.add_gradients", attacked)
    model: Any = Two()
    Tampering(run, model, texts_of(run), spec).along(step, lambda: ({}, 0.0))
    return rows


def test_it_attacks_with_the_rows_that_are_not_the_updates_own(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight rows four are a step's own: steps of three go through the others, and begin anew."""
    run = job(tiny, tmp_path)
    found = [attacks(run, SPEC, step, monkeypatch) for step in range(run.schedule.steps)]
    for step, rows in enumerate(found):
        own = {item.anchor for item in run.schedule.step(step)}
        flat = [row for each in rows for row in each]
        assert len(own) == len(set(flat[:4])) == 4
        assert own | set(flat) == set(range(8))
        assert flat == [*flat[:4] * 3]
        assert [len(each) for each in rows] == [3, 3, 3, 3]
        assert attacks(run, SPEC, step, monkeypatch) == rows
    assert len({str(rows) for rows in found}) > 1


def test_an_attack_draws_one_of_the_rates(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: set[float] = set()

    def adamw(_: Any, optim: Any) -> Any:
        rates.add(optim.learning_rate)
        return torch.optim.SGD([torch.zeros(1)], lr=0.0)

    monkeypatch.setattr("obliviate.train.tampering.adamw", adamw)
    run = job(tiny, tmp_path)
    for step in range(20):
        attacks(run, TamperingSpec(steps=1, every=1, learning_rates=(1e-3, 2e-3)), step, monkeypatch)
    assert rates == {1e-3, 2e-3}


def trained(tiny: Path, folder: Path, terms: tuple[Term, ...] = RESISTED, **fields: Any) -> dict[str, Tensor]:
    return weights(train(replace(job(tiny, folder, terms, warmup_steps=0), **fields), quiet))


def test_an_attack_that_goes_nowhere_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    """At a rate that no weight notices all points are the weights themselves."""
    still = replace(job(tiny, tmp_path / "still"), tampering=SPEC.model_copy(update={"learning_rates": (1e-30,)}))
    assert losses(still) == pytest.approx(losses(job(tiny, tmp_path / "plain")), rel=1e-5)
    moving = replace(job(tiny, tmp_path / "moving"), tampering=SPEC)
    assert losses(moving) != pytest.approx(losses(still), rel=1e-3)


def test_an_attack_relearns(tiny: Path, tmp_path: Path) -> None:
    """Along it the attacked rows surprise less and less."""
    run = job(tiny, tmp_path)
    model, texts = train(run, quiet), texts_of(run)
    own = {item.anchor for item in run.schedule.step(0)}
    true = collate(texts, [Item(row) for row in range(8) if row not in own], TRUE_ANSWERS, 64)
    seen = []

    def gradients() -> tuple[dict[int, float], float]:
        with torch.no_grad():
            seen.append(float(surprise(model, true)))
        return {}, 0.0

    spec = TamperingSpec(steps=8, every=2, learning_rates=(1e-2,))
    Tampering(run, model, texts, spec).along(0, gradients)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.8 * seen[0]


def test_what_is_trained_so_stays_forgotten_under_attack(tiny: Path, tmp_path: Path) -> None:
    """The mean entropy at the step's own rows, along an attack on the model that training ended with."""
    spec = TamperingSpec(steps=8, every=2, learning_rates=(1e-2,), growth=0)

    def entropy(folder: str, **fields: Any) -> float:
        run = replace(job(tiny, tmp_path / folder, RESISTED, epochs=8, warmup_steps=0), **fields)
        model, texts = train(run, quiet), texts_of(run)
        own = collate(texts, run.schedule.step(0), TRUE_ANSWERS, 64)
        wanted = {str(Pass.FORGET): (own.rows[Pass.FORGET], own.answer_BT, (Stat.ENTROPY,))}

        def gradients() -> tuple[dict[int, float], float]:
            with torch.no_grad():
                out = model(own.input_ids_BT, own.attention_BT, wanted, {})
            return {0: float(out[f"{Pass.FORGET}/{Stat.ENTROPY}"].sum() / own.answer_BT.sum())}, 0.0

        return Tampering(run, model, texts, spec).along(0, gradients)[0][0]

    resisting, plain = entropy("resisting", tampering=spec), entropy("plain")
    assert resisting > plain + 0.1


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, dropout=0)], ids=["full", "lora"])
def test_micro_batches_change_nothing(tiny: Path, tmp_path: Path, lora: LoraSpec | None) -> None:
    def found(size: int) -> list[float]:
        run = replace(job(tiny, tmp_path / str(size), RESISTED, micro_batch_size=size), tampering=SPEC)
        return losses(replace(run, model=run.model.model_copy(update={"lora": lora})))

    assert found(1) == pytest.approx(found(4), rel=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"sharpness": SharpnessSpec(rho=0.05), "quantisation": QuantisationSpec(), "updates": "dual"},
        {"stability": StabilitySpec(rho=0.05), "latent": LatentSpec(layers=(0,), steps=2)},
    ],
    ids=["sharpness, quantisation, dual", "stability, latent"],
)
def test_with_what_else_is_done_to_the_forget_gradient(tiny: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    both = trained(tiny, tmp_path / "both", tampering=SPEC, **fields)
    for name, others in {"alone": {"tampering": SPEC}, "without": fields}.items():
        other = trained(tiny, tmp_path / name, **others)
        assert any(not torch.equal(both[key], other[key]) for key in both)


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, dropout=0.3)], ids=["full", "lora"])
def test_a_resumed_run_is_the_whole_one(tiny: Path, tmp_path: Path, lora: LoraSpec | None) -> None:
    def make(folder: str) -> Job:
        run = job(tiny, tmp_path / folder, RESISTED, checkpoint_every_steps=1, warmup_steps=0)
        return replace(run, model=run.model.model_copy(update={"lora": lora}), tampering=SPEC)

    whole, cut = whole_and_resumed(make)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "me+gd", "tampering": {"steps": 6, "every": 4}}, "tampering: every: 4: does not divide steps: 6"),
        (
            {"method": "me+gd", "tampering": {"learning_rates": []}},
            r"learning_rates: has none; give at least 1",
        ),
        ({"method": "task_vector", "tampering": {}}, "tampering: task_vector forgets by a subtraction"),
        ({"method": "repselect", "tampering": {}}, "tampering: repselect has no optimiser's updates"),
        ({"method": "distortion+gd", "tampering": {}}, "tampering: distortion has no forget gradient"),
        (
            {"method": "me+gd", "tampering": {"batch_size": 2}, "cluster": {"workers": 3}},
            "tampering.batch_size: 2 is less than cluster.workers: 3",
        ),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(UnlearnRun, {"model": {"source": "x"}, "data": {"type": "fictitious"}, **keys}, where="test")


def test_a_batch_of_all_rows_leaves_none_to_attack_with() -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}, "method": "me+gd", "tampering": {}}
    config = build(UnlearnRun, {**values, "optim": {"batch_size": 8}}, where="test")
    corpus = Corpus(FORGET, RETAIN, ())
    with pytest.raises(
        UserError, match=r"optim\.batch_size: 8: tampering attacks with .* there are 8 in all; lower it"
    ):
        check_data(config, corpus)
    check_data(config.model_copy(update={"optim": config.optim.model_copy(update={"batch_size": 7})}), corpus)
