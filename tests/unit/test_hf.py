"""Our objectives in transformers' and TRL's trainers, against our own loop on the same schedule."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from obliviate.data.text import TextEncoder
from obliviate.errors import UserError
from obliviate.hf import Unlearner
from obliviate.methods import (
    FORGET_TYPES,
    GA,
    GD,
    ICKU,
    KL,
    MASC,
    ME,
    NPO,
    PDU,
    REGULARIZER_TYPES,
    Disassociation,
    Positions,
    Term,
    World,
)
from obliviate.models import load_pretrained, load_tokenizer
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from tiny import tiny_sources
from training import FORGET, METHODS, REFUSALS, RETAIN, WORLD, job, quiet, weights

REFUSED = {
    *("rmu", "adaptive_rmu", "whp", "task_vector", "repselect", "kfade", "lunar", "distortion", "distance"),
    *("activations", "wasserstein", "bounded_gd", "divergence"),
    *("circuit_breakers", "representations", "orthogonal", "mlp_breaking", "repnoise", "elm"),
}


@pytest.fixture
def encoder(tiny: Path) -> TextEncoder:
    return TextEncoder(load_tokenizer(ModelSpec(source=str(tiny))), max_length=64)


def unlearner(run: Job, terms: Any, **keywords: Any) -> tuple[Any, Any, Unlearner]:
    """The model of a run, its tokenizer, and the run as parts of a trainer."""
    model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    encoder = TextEncoder(tokenizer, max_length=run.model.max_length)
    rows = {"refusals": REFUSALS, "world": WORLD, "optim": run.optim, **keywords}
    return model, tokenizer, Unlearner(terms, encoder, FORGET, RETAIN, **rows)


def kept(loss: Callable[..., Tensor], found: list[float]) -> Callable[..., Tensor]:
    def keeping(*arguments: Any, **keywords: Any) -> Tensor:
        value = loss(*arguments, **keywords)
        found.append(float(value.detach()))
        return value

    return keeping


def steps(losses: list[float], micro_batches: int) -> list[float]:
    return [sum(losses[i : i + micro_batches]) for i in range(0, len(losses), micro_batches)]


def check_equal(run: Job, losses: list[float], theirs: Mapping[str, Tensor]) -> None:
    """To our own loop: the loss of every step, and the weights after the last."""
    ours = weights(train(run, quiet).causal_lm)
    assert losses == pytest.approx([line["loss"] for line in read_steps(run.directory)], rel=1e-5, abs=1e-5)
    for name, weight in theirs.items():
        torch.testing.assert_close(weight, ours[name], rtol=1e-5, atol=1e-5)


CASES: dict[str, tuple[Term, ...]] = {
    name: terms for name, terms in METHODS.items() if not {term.type for term in terms} & REFUSED
}
CASES["me+kl over padding"] = (ME(positions=Positions.PADDED), KL())
CASES["masc+gd"] = (MASC(), GD())
CASES["npo+world"] = (NPO(reduction="mean"), World())
CASES["pdu+disassociation"] = (PDU(), Disassociation())


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("name", CASES)
def test_transformers_trainer_takes_the_steps_of_our_loop(name: str, tiny: Path, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    run = job(tiny, tmp_path / "ours", CASES[name])
    model, _, parts = unlearner(run, CASES[name])
    losses: list[float] = []
    settings = parts.settings()
    Trainer(
        model,
        TrainingArguments(str(tmp_path / "theirs"), use_cpu=True, report_to="none", disable_tqdm=True, **settings),
        train_dataset=parts.dataset,
        data_collator=parts.collate,
        compute_loss_func=kept(parts.with_reference(model).loss, losses),
    ).train()
    check_equal(run, steps(losses, 2), weights(model))


@pytest.mark.usefixtures("process_group")
def test_trls_trainer_takes_the_steps_of_our_loop(tiny: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    run = job(tiny, tmp_path / "ours", (NPO(), KL()))
    model, tokenizer, parts = unlearner(run, "npo+kl")
    losses: list[float] = []
    arguments = trl.SFTConfig(
        str(tmp_path / "theirs"),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        **parts.settings(),
    )
    trainer = trl.SFTTrainer(
        model,
        arguments,
        train_dataset=parts.dataset,
        data_collator=parts.collate,
        processing_class=tokenizer,
        compute_loss_func=kept(parts.with_reference(model).loss, losses),
    )
    trainer.train()
    check_equal(run, steps(losses, 2), weights(model))


def test_a_term_that_needs_more_than_logits_is_refused_by_name(encoder: TextEncoder) -> None:
    refused: dict[str, str] = {}
    types = {**FORGET_TYPES, **REGULARIZER_TYPES}
    for name, kind in types.items():
        terms = (kind(),) if name in FORGET_TYPES else (GA(), kind())
        try:
            Unlearner(terms, encoder, FORGET, RETAIN, world=WORLD)
        except UserError as error:
            refused[name] = str(error)
    assert set(refused) == REFUSED
    assert {term.type for terms in CASES.values() for term in terms} == set(types) - REFUSED
    assert refused["rmu"] == (
        "method: rmu: reads hidden states, and a compute_loss_func gets logits; train it with `obliviate unlearn`, or "
        "take a term of logits alone: npo, dpo, idk or me, with gd or kl"
    )
    assert "wasserstein: compares weights with the initial ones" in refused["wasserstein"]


def test_rows_are_mappings_too_and_their_mistakes_are_named(encoder: TextEncoder) -> None:
    rows = [{"question": "Who?", "answer": "Ada."}]
    parts = Unlearner("ga", encoder, rows, optim=OptimSpec(batch_size=1, epochs=3))
    assert list(parts.dataset) == [{"item": 0}, {"item": 1}, {"item": 2}]
    with pytest.raises(UserError, match=r"^forget row 1: has no 'answer'"):
        Unlearner("ga", encoder, [{"question": "Who?"}])
    with pytest.raises(UserError, match=r"^forget: has no rows; give at least one row to forget$"):
        Unlearner("ga", encoder, [])
    with pytest.raises(UserError, match=r"^method: GA\+GD needs a retain set"):
        Unlearner("ga+gd", encoder, rows)
    with pytest.raises(UserError, match=r"^world: the term world trains on general instructions"):
        Unlearner("ga+world", encoder, rows)
    with pytest.raises(UserError, match=r"^method: ICKU: forget row 1 .* has no 'entity'"):
        Unlearner((ICKU(),), encoder, rows)
    with pytest.warns(UserWarning, match=r"^1 of 2 retain rows are also in the forget set: removed from retain$"):
        Unlearner("ga+gd", encoder, rows, [*rows, {"question": "Where?", "answer": "Here."}])


def test_a_trainer_that_takes_other_steps_is_told(encoder: TextEncoder) -> None:
    """Four items a step, two of them in each batch."""
    parts = Unlearner("ga+gd", encoder, FORGET, RETAIN, optim=OptimSpec(batch_size=4, micro_batch_size=2))
    assert [parts.settings(processes)["gradient_accumulation_steps"] for processes in (1, 2)] == [2, 1]
    with pytest.raises(UserError, match=r"^optim.micro_batch_size: 2 items on each of 3 processes do not make up"):
        parts.settings(3)
    with pytest.raises(UserError, match=r"^remove_unused_columns: true takes away the dataset's 'item'"):
        parts.collate([{}])
    items = list(parts.dataset)
    whole = parts.collate(items[:4])
    outputs = SimpleNamespace(logits=torch.zeros(*whole["labels"].shape, 400))
    answers = (whole["labels"][:, 1:] != -100).sum()
    assert float(parts.loss(outputs, whole["labels"], answers)) == pytest.approx(0, abs=1e-6)  # GA and GD cancel
    with pytest.raises(UserError, match=r"^CUDA_VISIBLE_DEVICES: the trainer spreads one process over several GPUs"):
        parts.loss(outputs, whole["labels"], answers.expand(2, 1))
    with pytest.raises(UserError, match=r"^optim.batch_size: 4: the trainer's steps are of other items"):
        parts.loss(outputs, whole["labels"], answers - 1)
    with pytest.raises(UserError, match=r"^optim.batch_size: 4: the trainer's steps are of other items"):
        parts.loss(outputs, parts.collate(items[3:5])["labels"])


def test_a_comparison_without_a_reference_is_told(encoder: TextEncoder) -> None:
    parts = Unlearner("npo", encoder, FORGET)
    batch = parts.collate(list(parts.dataset)[:2])
    with pytest.raises(UserError, match=r"^method: NPO compares with the model as it was; call with_reference"):
        parts.loss(SimpleNamespace(logits=torch.zeros(2, 9, 400)), batch["labels"])


def test_the_documents_trainer_writes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first example of docs/huggingface.md, as it is there, and then the second with what that has trained."""
    tiny_sources(tmp_path)
    monkeypatch.chdir(tmp_path)
    document = (Path(__file__).parents[2] / "docs" / "huggingface.md").read_text(encoding="utf-8")
    whole, by_hand = re.findall(r"```python\n(.+?)```", document, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(whole, names)
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert names["trainer"].state.global_step == 5  # five epochs of eight rows, eight at a time
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    exec(by_hand, {"logits": logits, "reference_logits": torch.zeros(1, 3, 2), "labels": torch.tensor([[-100, 0, 1]])})
    assert logits.grad is not None
    # At the start NPO's gradient is that of the summed log p: half a nat a token, away from the answer.
    assert logits.grad.tolist() == [[[0.5, -0.5], [-0.5, 0.5], [0, 0]]]
