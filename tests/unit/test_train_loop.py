"""The training loop on a tiny model, without Ray: what it computes, what changes nothing, how it stops and goes on."""

import resource
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch import Tensor

from obliviate.data.rows import Said
from obliviate.data.text import Encoded, TextEncoder
from obliviate.errors import UserError
from obliviate.methods import GA, GD, KL, ME, NPO, Loss, Pass, Positions, Scores
from obliviate.models import load_pretrained
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train import checkpoint
from obliviate.train.export import export
from obliviate.train.job import CHECKPOINTS, Job
from obliviate.train.log import TENSORBOARD, read_steps
from obliviate.train.loop import train
from training import FORGET, METHODS, job, losses, quiet, weights

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.mark.parametrize("name", METHODS)
def test_eight_micro_batches_of_one_are_one_of_eight(tiny: Path, tmp_path: Path, name: str) -> None:
    """Steps of eight items, four but for what takes its own number of them, every term's loss at every step."""
    runs = [
        job(tiny, tmp_path / str(size), METHODS[name], batch_size=8, epochs=4, micro_batch_size=size) for size in (1, 8)
    ]
    curves = [losses(run) for run in runs]
    assert len(curves[0]) == runs[0].schedule.steps * len(METHODS[name])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5, abs=1e-7)  # KL starts at zero
    assert len(set(curves[0])) > 1 or runs[0].schedule.steps == 1  # a closed form


def test_the_first_loss_is_the_models_own(tiny: Path, tmp_path: Path) -> None:
    """GA's first loss is the mean log-probability of the batch's answers, by the plain Hugging Face forward."""
    run = job(tiny, tmp_path, (GA(),), batch_size=8, epochs=1)
    model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    logps: list[float] = []
    for row in FORGET:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row.question}], add_generation_prompt=True, return_dict=False
        )
        answer = [*tokenizer(row.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logp_TV = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        logps += [float(logp_TV[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]
    assert losses(run)[0] == pytest.approx(sum(logps) / len(logps), rel=1e-5)


def test_methods_that_compare_with_the_start_begin_at_their_limits(tiny: Path, tmp_path: Path) -> None:
    """At the first step model and reference agree: NPO is 2 log 2 / beta, KL is 0."""
    run = job(tiny, tmp_path, (NPO(beta=0.1), KL()), warmup_steps=0)
    train(run, quiet)
    first, second = read_steps(run.directory)[:2]
    assert first["parts"]["npo"] == pytest.approx(13.862943611, rel=1e-5)
    assert first["parts"]["kl"] == pytest.approx(0, abs=1e-6)
    assert second["parts"]["kl"] > 1e-6


def test_me_over_padding_equals_a_hand_made_padded_forward(tiny: Path, tmp_path: Path) -> None:
    """`positions: padded`: every position up to max_length counts, pads attended to by nobody, as published."""
    run = job(tiny, tmp_path, (ME(positions=Positions.PADDED, weight=1.0),), batch_size=8, epochs=1)
    model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    values: list[Tensor] = []
    for row in FORGET:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row.question}], add_generation_prompt=True, return_dict=False
        )
        ids = [*prompt, *tokenizer(row.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        mask = torch.tensor([[1] * len(ids) + [0] * (64 - len(ids))])
        padded = torch.tensor([ids + [tokenizer.eos_token_id] * (64 - len(ids))])
        with torch.no_grad():
            z_TV = model(padded, attention_mask=mask).logits[0, :-1]
        values.append(z_TV.logsumexp(-1) - z_TV.mean(-1) - torch.log(torch.tensor(float(z_TV.shape[-1]))))
    assert losses(run)[0] == pytest.approx(float(torch.cat(values).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["ga+gd", "llmu", "adaptive_rmu+kl", "undial"])
@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, dropout=0.1)], ids=["full", "lora"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    tiny: Path, tmp_path: Path, name: str, lora: LoraSpec | None
) -> None:
    def make(folder: str) -> Job:
        run = job(tiny, tmp_path / folder, METHODS[name])
        return replace(run, model=run.model.model_copy(update={"lora": lora}))

    first, second = (weights(train(make(folder), quiet)) for folder in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = weights(train(replace(make("c"), seed=1), quiet))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_process_that_trains_again_encodes_its_texts_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Said] = []
    original = TextEncoder.encode

    def counted(self: TextEncoder, *said: Any) -> Encoded:
        encoded.append(said)
        return original(self, *said)

    monkeypatch.setattr(TextEncoder, "encode", counted)
    first, again, other = (job(tiny, tmp_path / name, METHODS["ga+gd"]) for name in "abc")
    train(replace(first, forget=FORGET[1:]), quiet)
    once = len(encoded)
    train(replace(again, forget=FORGET[1:]), quiet)
    assert 0 < once == len(encoded)
    train(other, quiet)
    assert len(encoded) > once


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=2, dropout=0.1)], ids=["full", "lora"])
def test_a_run_cut_off_in_the_middle_ends_with_the_same_weights(
    tiny: Path, tmp_path: Path, lora: LoraSpec | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files of one second are read in the order of this count's digits, 10 before 9: a run goes on in another process.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))

    def make(name: str) -> Job:
        run = job(tiny, tmp_path / name, METHODS["npo+kl"], checkpoint_every_steps=1)
        return replace(run, model=run.model.model_copy(update={"lora": lora}))

    undisturbed = weights(train(make("whole"), quiet))

    def dies(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 3:  # logged, but its checkpoint is not yet written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make("cut"), dies)
    resumed = make("cut")
    again = weights(train(resumed, quiet))
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)
    assert [line["step"] for line in read_steps(resumed.directory)] == [1, 2, 3, 4]
    board = EventAccumulator(str(resumed.directory / TENSORBOARD)).Reload()
    logged = {event.step: event.value for event in board.Scalars("loss/npo")}
    assert logged == pytest.approx({line["step"]: line["parts"]["npo"] for line in read_steps(resumed.directory)})


def test_small_bf16_updates_are_not_rounded_away(tiny: Path, tmp_path: Path) -> None:
    """At lr 1e-5 an Adam step is below half a bfloat16 ulp of most weights: only a float32 master can move them."""
    run = job(tiny, tmp_path, (GA(),), learning_rate=1e-5, warmup_steps=0, epochs=1)
    run = replace(run, model=run.model.model_copy(update={"compute_dtype": "bfloat16"}))
    before, _ = load_pretrained(run.model, dtype=torch.float32)
    after = weights(train(run, quiet))
    moved = [
        float((after[f"model.{name}"] != value).float().mean())
        for name, value in before.state_dict().items()
        if "proj" in name
    ]
    assert min(moved) > 0.9


def test_a_full_disk_leaves_the_previous_checkpoint_usable(tiny: Path, tmp_path: Path) -> None:
    run = job(tiny, tmp_path, checkpoint_every_steps=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fills_up(metrics: Mapping[str, Any]) -> None:
        if metrics["step"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    try:
        with pytest.raises(UserError, match=r"step_000002: the checkpoint could not be written .* from step_000001"):
            train(run, fills_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    kept = checkpoint.latest(run.directory / CHECKPOINTS)
    assert kept is not None
    assert kept.name == "step_000001"
    again = weights(train(run, quiet))
    whole = weights(train(job(tiny, tmp_path / "whole", checkpoint_every_steps=1), quiet))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(tiny: Path, tmp_path: Path) -> None:
    run = job(tiny, tmp_path, (GA(), GD()), learning_rate=1e30, warmup_steps=0, max_grad_norm=None)
    with pytest.raises(UserError, match=r"step 2: the (loss of g.|gradient's norm) is nan.* no good checkpoint"):
        train(run, quiet)


def test_weights_that_gave_a_bad_loss_are_no_good_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third step's loss is infinite: the checkpoint after two steps is those weights', the one before is good."""
    run, calls = job(tiny, tmp_path, (GA(), GD()), checkpoint_every_steps=1, micro_batch_size=4), []

    def spoilt(self: GD, scores: Scores) -> Loss:
        loss = healthy(self, scores)
        calls.append(loss)
        # A step asks twice, of the masks' counts and then of the losses: the sixth call is the third step's loss.
        return Loss(loss.sum * float("inf"), loss.count) if len(calls) == 6 else loss

    healthy = GD.loss
    monkeypatch.setattr(GD, "loss", spoilt)
    with pytest.raises(UserError, match=r"^step 3: the loss of gd is inf; .* good checkpoint is .*step_000001\. "):
        train(run, quiet)
    assert [path.name for path in (run.directory / CHECKPOINTS).iterdir()] == ["step_000001"]
    assert [line["step"] for line in read_steps(run.directory)] == [1, 2]


def test_a_gradient_that_is_not_finite_never_becomes_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sqrt has an infinite slope at 0: the loss is finite, its gradient is not."""

    def kinked(self: GD, scores: Scores) -> Loss:
        logp_B = scores[Pass.RETAIN].logp_B
        return Loss.mean((logp_B - logp_B.detach()).sqrt())

    monkeypatch.setattr(GD, "loss", kinked)
    with pytest.raises(UserError, match=r"^step 1: the gradient's norm is (nan|inf), at losses of ga -?[\d.]+, gd 0; "):
        train(job(tiny, tmp_path), quiet)


def test_two_terms_of_one_type_are_both_logged(tiny: Path, tmp_path: Path) -> None:
    run = job(tiny, tmp_path, (GA(), GD(), GD(weight=3)), epochs=0.5)
    train(run, quiet)
    (line,) = read_steps(run.directory)
    assert line["weights"] == {"ga": 1, "gd": 1, "gd_2": 3}
    assert line["loss"] == pytest.approx(line["parts"]["ga"] + 4 * line["parts"]["gd"])
    assert line["parts"]["gd"] == line["parts"]["gd_2"]


def test_a_weight_that_moves_is_on_the_board(tiny: Path, tmp_path: Path) -> None:
    run = job(tiny, tmp_path, METHODS["pdu"])
    train(run, quiet)
    board = EventAccumulator(str(run.directory / TENSORBOARD)).Reload()
    logged = [event.value for event in board.Scalars("weight/bounded_gd")]
    assert logged == pytest.approx([line["weights"]["bounded_gd"] for line in read_steps(run.directory)])
    assert len(set(logged)) > 1


@pytest.mark.parametrize(
    "lora", [None, LoraSpec(rank=2), LoraSpec(rank=2, merge=False)], ids=["full", "merged", "adapter"]
)
def test_the_exported_folder_holds_the_trained_model(tiny: Path, tmp_path: Path, lora: LoraSpec | None) -> None:
    run = job(tiny, tmp_path, (GD(),), batch_size=10, epochs=3, warmup_steps=0)
    run = replace(run, anchor=Pass.RETAIN, model=run.model.model_copy(update={"lora": lora}))
    trained = train(run, quiet)
    export(trained, run.model, tmp_path / "model")
    model, tokenizer = load_pretrained(ModelSpec(source=str(tmp_path / "model")), dtype=torch.float32)
    ids = tokenizer("Who wrote book 1?", return_tensors="pt").input_ids
    with torch.no_grad():
        exported = model(ids).logits
        base = load_pretrained(run.model, dtype=torch.float32)[0](ids).logits
    assert not torch.allclose(exported, base, atol=1e-4)
    if lora is None:
        own = weights(trained)
        assert all(torch.equal(value, own[f"model.{name}"]) for name, value in model.state_dict().items())
    assert model.config.use_cache


@pytest.mark.parametrize(("name", "field"), [("ga+gd", "retain"), ("ga+gd", "forget"), ("opt_out", "world")])
def test_a_text_that_cannot_be_encoded_is_told_before_anything_is_trained(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, field: str
) -> None:
    """On every worker, whoever's share it is in: here before there is even a model, and it is met in the last epoch."""
    monkeypatch.setattr("obliviate.train.loop.build", lambda *_, **__: pytest.fail("the model was built"))
    run = job(tiny, tmp_path, METHODS[name], epochs=8)
    rows = list(getattr(run, field))
    met = [item for step in range(run.schedule.steps) for item in run.schedule.step(step)]
    index = {"retain": met[-1].retain, "forget": met[-1].anchor, "world": met[-1].world}[field]
    rows[index] = replace(rows[index], question="Who? " * 64)
    with pytest.raises(UserError, match=r"model\.max_length: 64: the prompt of the question 'Who\?.* alone has"):
        train(replace(run, **{field: tuple(rows)}), quiet)


def test_an_epoch_of_fine_tuning_sees_every_row_once(tmp_path: Path) -> None:
    """10 retain rows in batches of 5: the two steps of the epoch hold each of the ten, and none twice."""
    run = replace(job(tmp_path, tmp_path, (GD(),), batch_size=5, epochs=1), anchor=Pass.RETAIN)
    seen = [item.retain for step in range(run.schedule.steps) for item in run.schedule.step(step)]
    assert sorted(seen) == list(range(10))
