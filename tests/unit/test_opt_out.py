"""Opt-Out in the training loop: the initial weights, alternating updates, world data, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Row
from obliviate.data.world import load_world
from obliviate.errors import UserError
from obliviate.methods import GA, GD, NPO, Wasserstein, World
from obliviate.train.export import export
from obliviate.train.initial import InitialWeights, directions
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import build as build_model
from training import METHODS, job, losses, quiet, weights


def test_gradients_of_all_parameters_are_added_to_what_is_there(
    tiny: Path, tmp_path: Path, process_group: None
) -> None:
    """Of each parameter, by hand: its own directions, a vector as one row, matrices as they are."""
    model = build_model(job(tiny, tmp_path).model, seed=0, activation_checkpointing=False, device=torch.device("cpu"))
    before = [parameter.full_tensor().detach().clone() for parameter in model.parameters()]
    kept, term = InitialWeights(model), Wasserstein(directions=7)
    generator = torch.Generator().manual_seed(0)
    expected, total = [], 0.0
    for index, (parameter, initial) in enumerate(zip(model.parameters(), before, strict=True)):
        with torch.no_grad():
            parameter.to_local().add_(0.01 * torch.randn(initial.shape, generator=generator))
        parameter.grad = torch.ones_like(parameter)
        now = parameter.full_tensor().detach().clone().requires_grad_()
        rows = (each if each.ndim == 2 else each[None] for each in (initial, now))
        value = term.penalty(*rows, directions(7, initial.shape[-1], (3, 5, index)))
        (0.5 * value).backward()
        total += value.item()
        expected.append(1 + now.grad)  # type: ignore[operator]
    assert kept.add_gradients(term, 0.5, (3, 5)) == pytest.approx(total, rel=1e-5)
    assert total > 0
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad.full_tensor(), gradient)  # type: ignore[union-attr]


def test_the_distance_is_zero_at_first_and_held_down_by_its_weight(
    tiny: Path, tmp_path: Path, process_group: None
) -> None:
    def ends_at(weight: float) -> float:
        terms = (GA(), GD(), Wasserstein(weight=weight, directions=5))
        train(job(tiny, tmp_path / str(weight), terms, epochs=6), quiet)
        lines = read_steps(tmp_path / str(weight))
        assert lines[0]["parts"]["wasserstein"] == 0
        last = lines[-1]
        by_hand = last["parts"]["ga"] + last["parts"]["gd"] + weight * last["parts"]["wasserstein"]
        assert last["loss"] == pytest.approx(by_hand)
        return float(last["parts"]["wasserstein"])

    assert 0 < ends_at(1000.0) < ends_at(0.0)


def test_a_resumed_run_still_knows_where_it_began(tiny: Path, tmp_path: Path, process_group: None) -> None:
    whole = job(tiny, tmp_path / "whole", METHODS["opt_out"])
    cut = replace(whole, directory=tmp_path / "cut", optim=whole.optim.model_copy(update={"checkpoint_every_steps": 1}))

    def dies(metrics: object) -> None:
        if metrics["step"] == 3:  # type: ignore[index]
            raise KeyboardInterrupt

    undisturbed = weights(train(whole, quiet))
    with pytest.raises(KeyboardInterrupt):
        train(cut, dies)
    again = weights(train(cut, quiet))
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)


def test_alternating_trains_the_rest_on_the_model_that_the_forget_step_left(
    tiny: Path, tmp_path: Path, process_group: None
) -> None:
    """GA alone for a step, and GD's loss of its model on the same items: what alternating logs of its first step."""
    settings = {"epochs": 0.5, "warmup_steps": 0, "schedule": "constant"}
    first = job(tiny, tmp_path / "ga", (GA(),), **settings)
    export(train(first, quiet), first.model, tmp_path / "after")
    (expected,) = losses(job(tmp_path / "after", tmp_path / "gd", (GD(),), **settings))
    both = job(tiny, tmp_path / "both", (GA(), GD()), **settings)
    (joint,) = losses(both)[1:]
    ga, gd = losses(replace(both, directory=tmp_path / "alternating", updates="alternating"))
    assert ga == pytest.approx(losses(replace(first, directory=tmp_path / "again"))[0])
    assert gd == pytest.approx(expected, rel=1e-5)
    assert gd != pytest.approx(joint, rel=1e-4)


def test_a_phase_may_look_at_weights_alone(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run = job(tiny, tmp_path, (NPO(), Wasserstein()), epochs=1)
    train(replace(run, updates="alternating"), quiet)
    first, second = (line["parts"]["wasserstein"] for line in read_steps(tmp_path))
    assert 0 <= first < second


def test_world_items_differ_and_none_is_left_out(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run = job(tiny, tmp_path, (GA(), World()), epochs=10)
    drawn = [item.world for step in range(run.schedule.steps) for item in run.schedule.step(step)]
    assert set(drawn) == set(range(len(run.world)))


def test_alpacas_files_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(
        json.dumps([
            {"instruction": "Name a colour.", "input": "", "output": "Red."},
            {"instruction": "Translate.", "input": "Haus", "output": "House."},
            {"question": "Two and two?", "answer": "Four."},
        ])
    )  # fmt: skip
    assert load_world(str(path)) == (
        Row("Name a colour.", "Red."), Row("Translate.\n\nHaus", "House."), Row("Two and two?", "Four."),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"^world: .*has no rows; give a file of instructions with answers"),
        ('[{"instruction": "Name a colour."}]', r"^world: .*row 1: has no 'answer'"),
        ("nonsense", r"^world: .*line 1: not JSON"),
    ],
)
def test_a_world_file_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_world(str(tmp_path / "world.json"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "opt_out"}, "world: the term world trains on general instructions; give a file of them"),
        ({"method": "npo+gd", "world": "w.json"}, "world: w.json: no term trains on it; add the regularizer world"),
        ({"method": "npo", "updates": "alternating"}, "updates: alternating: NPO has no regularizer to alternate with"),
        ({"method": "npo+wasserstein", "model": {"source": "m", "lora": {}}}, "model.lora: wasserstein compares"),
        ({"method": "npo", "regularizers": [{"type": "wasserstein", "directions": 0}]}, "regularizers.0.directions"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict, message: str) -> None:
    values = {"model": {"source": "m"}, "data": {"type": "fictitious"}, **changed}
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        build(UnlearnRun, values, where="test")
