"""Workers change the speed, never the result: gloo process groups of one, two and four, without Ray.

One set of four processes serves all tests: all of them train in a group of four, then the first two in one of two,
then the first alone; each group runs the same jobs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from moe import gpt2_folder, moe_folder
from obliviate.data.rows import Row
from obliviate.decoder import decoder_layers
from obliviate.errors import UserError
from obliviate.methods import GA, GD, Term
from obliviate.schema import (
    LatentSpec,
    LoraSpec,
    ProjectionSpec,
    QuantisationSpec,
    RectificationSpec,
    SharpnessSpec,
    StabilitySpec,
    StopSpec,
    TamperingSpec,
)
from obliviate.train.job import Budget, Job, Validation
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate.train.model import ScoredModel, checked
from once import Once
from tiny import tiny_model_folder
from training import FORGET, METHODS, WORLD, job, quiet, weights

WORLDS = (4, 2, 1)
LORA = LoraSpec(rank=2, dropout=0.3)
# name -> full fine-tuning or adapters, with and without activation checkpointing
VARIANTS: dict[str, tuple[LoraSpec | None, bool]] = {
    "full": (None, False), "full, checkpointed": (None, True),
    "lora": (LORA, False), "lora, checkpointed": (LORA, True),
}  # fmt: skip
# How the forget objective's updates are made, beside one update of all terms.
UPDATES: dict[str, dict[str, Any]] = {
    "dual": {"updates": "dual", "forget_learning_rate": 5e-4},
    "sharpness": {"sharpness": SharpnessSpec(rho=0.05)},
    "stop": {"stop": StopSpec(margin=0.02, share=1)},
    "latent": {"latent": LatentSpec(layers=(0, "model.layers.1.mlp"), epsilon=0.02, steps=2)},
    "projection": {"updates": "dual", "projection": ProjectionSpec(energy=0.8, texts=5)},
    "rectification": {"rectification": RectificationSpec(share=0.6), "sharpness": SharpnessSpec(rho=0.05)},
    "dual_plus": {"updates": "dual_plus", "forget_learning_rate": 5e-4},
    "stability, quantisation": {"stability": StabilitySpec(rho=0.05, feedback=0.5), "quantisation": QuantisationSpec()},
    "tampering": {"tampering": TamperingSpec(steps=2, every=1, learning_rates=(1e-4, 1e-3), batch_size=3)},
    "all": {"updates": "dual", "sharpness": SharpnessSpec(rho=0.05), "projection": ProjectionSpec(energy=0.8, texts=5)},
}
# Other kinds of layers: experts fused in one parameter, with adapters; Conv1D, sharded along what it reads.
KINDS = ("experts", "conv1d, projection")
# Ended by what is measured on rows that the workers share.
HELD_OUT = {"budget": 2, "validation": 1}  # and the step that is chosen
STEPS, CUT_AFTER = 3, 2
PRELOADED = ["obliviate.train.loop", "torch._dynamo", "torch.utils.tensorboard", "peft",
             "transformers.models.llama.modeling_llama"]  # fmt: skip


def three_steps(folder: Path, directory: Path, terms: tuple[Term, ...], **optim: Any) -> Job:
    return job(folder / "model", directory, terms, micro_batch_size=1, epochs=1.5, warmup_steps=0, **optim)


@dataclass(frozen=True)
class AllBut:
    """Drops every other row, whatever is said."""

    rows: tuple[Row, ...]
    max_new_tokens: int = 3

    def __call__(self, rows: Sequence[Row], said: Sequence[str]) -> list[bool]:
        assert len(said) == len(rows)
        return [row not in self.rows for row in rows]


@dataclass(frozen=True)
class Unreadable:
    """A rule that lacks what it reads, as the first worker's node may."""

    max_new_tokens: int = 3

    def __call__(self, rows: Sequence[Row], said: Sequence[str]) -> list[bool]:
        raise UserError("encoder: /nowhere: no folder with a model")


# Trained by four workers as well, more than a micro-batch of each step: one of each kind of what is computed together.
BY_FOUR = (
    "ga+gd",
    "lunar",
    "npo+kl",
    "idk+ap",
    "pdu",
    "sku",
    "whp+kl",
    "kfade",
    "circuit_breakers+gd",
    "elm",
    "opt_out",
)


def dropping(folder: Path, world: int) -> Job:
    """Two epochs, of which the second has two rows."""
    run = three_steps(folder, folder / f"dropping {world}", METHODS["npo+kl"])
    return replace(run, drop=AllBut(FORGET[6:]), optim=run.optim.model_copy(update={"epochs": 2}))


def variant(folder: Path, name: str, directory: Path) -> Job:
    lora, checkpointed = VARIANTS[name]
    run = three_steps(folder, directory, METHODS["npo+kl"], activation_checkpointing=checkpointed)
    return replace(run, model=run.model.model_copy(update={"lora": lora}))


def kind(folder: Path, name: str, world: int) -> Job:
    terms = METHODS["ga+gd"]
    if name == "experts":
        run = three_steps(folder / "experts", folder / f"{name} {world}", terms)
        return replace(run, model=run.model.model_copy(update={"lora": LORA}))
    run = three_steps(folder / "conv1d", folder / f"{name} {world}", terms)
    return replace(run, **UPDATES["projection"])


def selected(folder: Path, name: str, directory: Path) -> Job:
    """On more rows than workers, and not as many for each."""
    budget = name == "budget"
    rate = 1e-3 if budget else 1e-2
    run = job(folder / "model", directory, micro_batch_size=1, warmup_steps=0, checkpoint_every_steps=1,
              learning_rate=rate)  # fmt: skip
    if budget:
        return replace(run, budget=Budget(0.009, 1, WORLD[:5]))
    return replace(run, validation=Validation(1, None, FORGET[:3], WORLD[:3]))


def cut_run(folder: Path, name: str, world: int, other: int) -> Job:
    """Begun by `world` workers, ended by `other`."""
    run = variant(folder, name, folder / f"cut {name} {world} {other}")
    return replace(run, optim=run.optim.model_copy(update={"checkpoint_every_steps": 1}))


def dies(metrics: Mapping[str, Any]) -> None:
    if metrics["step"] == CUT_AFTER + 1:  # its checkpoint is never written
        raise InterruptedError


def trained_in_a_group(folder: Path, world: int) -> None:
    for name, terms in METHODS.items():
        if world == 4 and name not in BY_FOUR:
            continue
        metrics: list[Mapping[str, Any]] = []
        train(three_steps(folder, folder / f"{name} {world}", terms), metrics.append)
        held = [step["weights"] for step in metrics]
        (folder / f"{name} {world} weights {dist.get_rank()}.json").write_text(json.dumps(held))
    alternating = three_steps(folder, folder / f"alternating {world}", METHODS["opt_out"])
    train(replace(alternating, updates="alternating"), quiet)
    train(dropping(folder, world), quiet)
    unreadable = replace(dropping(folder, world), directory=folder / f"unreadable {world}", drop=Unreadable())
    try:
        train(unreadable, quiet)
    except UserError as error:
        (folder / f"unreadable {world} {dist.get_rank()}.txt").write_text(str(error))
    if world == 4:
        return
    for name in VARIANTS:
        model = train(variant(folder, name, folder / f"{name} {world}"), quiet)
        held = weights(model)
        if dist.get_rank() == 0:
            torch.save(held, folder / f"{name} {world}.pt")
    for name, fields in UPDATES.items():
        # Not KL: after a projected update it has hardly a gradient, and AdamW would make steps of its rounding.
        run = three_steps(folder, folder / f"{name} {world}", METHODS["ga+gd"])
        held = weights(train(replace(run, **fields), quiet))
        if dist.get_rank() == 0:
            torch.save(held, folder / f"{name} {world}.pt")
    for name in KINDS:
        held = weights(train(kind(folder, name, world), quiet))
        if dist.get_rank() == 0:
            torch.save(held, folder / f"{name} {world}.pt")
    for name in HELD_OUT:
        held = weights(train(selected(folder, name, folder / f"{name} {world}"), quiet))
        if dist.get_rank() == 0:
            torch.save(held, folder / f"{name} {world}.pt")
        with suppress(InterruptedError):
            held = weights(train(selected(folder, name, folder / f"cut {name}"), dies if world == 2 else quiet))
            torch.save(held, folder / f"cut {name}.pt")
    for name in ("full", "lora"):
        if world == 2:
            try:
                train(cut_run(folder, name, 2, 1), dies)
            except InterruptedError:
                continue
        else:
            train(cut_run(folder, name, 2, 1), quiet)


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank < world:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
            trained_in_a_group(folder, world)
            dist.destroy_process_group()


def train_in_groups(folder: Path) -> None:
    tiny_model_folder(folder / "model")
    moe_folder(folder / "experts" / "model", "deepseek_v3")
    gpt2_folder(folder / "conv1d" / "model")
    # Forked from a server that has imported everything once: four times that is most of the time.
    mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
    mp.start_processes(worker, (folder,), nprocs=max(WORLDS), start_method="forkserver")


@pytest.fixture(scope="module")
def groups(once: Once) -> Path:
    """The folder that all groups trained in."""
    return once("groups", train_in_groups)


def curve(directory: Path) -> list[float]:
    """Every term's loss at every step."""
    return [part for line in read_steps(directory) for part in line["parts"].values()]


@pytest.mark.parametrize(("name", "world"), [*((name, 2) for name in METHODS), *((name, 4) for name in BY_FOUR)])
def test_every_loss_of_every_step_is_that_of_one_worker(groups: Path, name: str, world: int) -> None:
    one = curve(groups / f"{name} 1")
    assert len(one) == (1 if name == "lunar" else STEPS) * len(METHODS[name])
    assert curve(groups / f"{name} {world}") == pytest.approx(one, rel=1e-5, abs=1e-7)  # KL starts at zero


@pytest.mark.parametrize("world", [2, 4])
def test_a_closed_form_is_that_of_one_worker(groups: Path, world: int) -> None:
    """Its norm: every prompt of every worker is in it once."""
    ((one,), (more,)) = (read_steps(groups / f"lunar {number}") for number in (1, world))
    assert more["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("world", [2, 4])
def test_alternating_updates_are_those_of_one_worker(groups: Path, world: int) -> None:
    one = curve(groups / "alternating 1")
    assert one != curve(groups / "opt_out 1")
    assert curve(groups / f"alternating {world}") == pytest.approx(one, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("world", [2, 4])
def test_more_workers_than_rows_are_left_change_nothing(groups: Path, world: int) -> None:
    one, more = (read_steps(groups / f"dropping {number}") for number in (1, world))
    assert one[1]["early_drop"] == more[1]["early_drop"] == {"dropped": [0, 1, 2, 3, 4, 5], "left": 2}
    assert [line["step"] for line in one] == [line["step"] for line in more]
    assert len(one) > 2
    assert curve(groups / f"dropping {world}") == pytest.approx(curve(groups / "dropping 1"), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("world", [2, 4])
def test_a_rule_that_the_first_worker_cannot_ask_ends_all_of_them(groups: Path, world: int) -> None:
    for rank in range(world):
        told = (groups / f"unreadable {world} {rank}.txt").read_text()
        assert told == "early_drop: encoder: /nowhere: no folder with a model"


@pytest.mark.parametrize("world", [2, 4])
def test_every_worker_holds_the_same_dual_variable(groups: Path, world: int) -> None:
    held = [json.loads((groups / f"pdu {world} weights {rank}.json").read_text()) for rank in range(world)]
    assert all(each == held[0] for each in held)
    assert len({step["bounded_gd"] for step in held[0]}) > 1


@pytest.mark.parametrize("name", [*VARIANTS, *UPDATES, *KINDS])
def test_two_workers_end_with_the_weights_of_one(groups: Path, name: str) -> None:
    one, two = (torch.load(groups / f"{name} {world}.pt") for world in (1, 2))
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[key], two[key]) for key in one)  # sums in another order: close, not the same
    # Attention's keys may all be moved alike, so that a bias of theirs has the gradient 0, and AdamW steps by rounding.
    keys = [key for key in one if not key.endswith("c_attn.bias")]
    apart = torch.cat([(one[key] - two[key]).abs().flatten() for key in keys])  # of moves up to 3 x 1e-3
    if name in ("rectification", "dual_plus"):
        # Where an entry of the forget gradient and what is taken from it all but cancel, or both parts of a moment do,
        # rounding is left, and AdamW makes a whole step of it: a few entries of some 50,000.
        apart = apart.sort().values[: -len(apart) // 10_000]
    assert apart.max() <= 1e-5
    assert curve(groups / f"{name} 2") == pytest.approx(curve(groups / f"{name} 1"), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", HELD_OUT)
def test_two_workers_choose_the_step_that_one_chooses(groups: Path, name: str) -> None:
    """On their shares of the rows, and one worker from their checkpoint, where the chosen weights are sharded too."""
    one, two, cut = (read_steps(groups / folder) for folder in (f"{name} 1", f"{name} 2", f"cut {name}"))
    for other in (two, cut):
        assert [line["step"] for line in other] == [line["step"] for line in one]
        for line, expected in zip(other, one, strict=True):
            assert line["held_out"]["chosen"] == expected["held_out"]["chosen"]
            assert line["held_out"].get("stops") == expected["held_out"].get("stops")
            for figure in {"kl", "score"} & set(expected["held_out"]):
                assert line["held_out"][figure] == pytest.approx(expected["held_out"][figure], rel=1e-4)
    assert [line["step"] for line in one if line["held_out"]["chosen"]][-1] == HELD_OUT[name]
    weights_of = [torch.load(groups / f"{each}.pt") for each in (f"{name} 1", f"{name} 2", f"cut {name}")]
    for other in weights_of[1:]:
        assert max(float((weights_of[0][key] - other[key]).abs().max()) for key in other) <= 1e-5


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_recomputing_activations_changes_nothing(groups: Path, kind: str) -> None:
    kept, recomputed = (curve(groups / f"{name} 2") for name in (kind, f"{kind}, checkpointed"))
    assert kept == pytest.approx(recomputed, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_checkpoint_of_two_workers_is_continued_by_one(groups: Path, name: str) -> None:
    run = cut_run(groups, name, 2, 1)
    assert [line["step"] for line in read_steps(run.directory)] == [1, 2, 3]
    assert curve(run.directory) == pytest.approx(curve(groups / f"{name} 1"), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", VARIANTS)
def test_checkpointing_runs_the_layers_again_in_the_backward_pass(
    tiny: Path, tmp_path: Path, process_group: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With adapters too, where the embeddings get no gradient: each layer runs once, or twice when recomputed."""
    lora, checkpointed = VARIANTS[name]
    run = job(tiny, tmp_path, (GA(), GD()), epochs=0.5, micro_batch_size=4)  # one step of one micro-batch
    run = replace(run, model=run.model.model_copy(update={"lora": lora}),
                  optim=run.optim.model_copy(update={"activation_checkpointing": checkpointed}))  # fmt: skip
    calls = [0]

    def counted(*arguments: Any, **keywords: Any) -> ScoredModel:
        model = make(*arguments, **keywords)
        mlp: Any = decoder_layers(model)[0].mlp
        mlp.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
        return model

    make: Callable[..., ScoredModel] = checked
    monkeypatch.setattr("obliviate.train.loop.checked", counted)
    train(run, quiet)
    assert calls[0] == (2 if checkpointed else 1)
