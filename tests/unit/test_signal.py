"""The cheap signal: when it is due, what it looks at, and that it is the probability it says."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.models import load_pretrained, text_encoder
from obliviate.schema import ModelSpec
from obliviate.train.log import read_steps
from obliviate.train.loop import single_process, train
from obliviate.train.signal import Signal, Slices, measure
from training import FORGET, RETAIN, job


def test_points_are_equal_shares_of_the_training() -> None:
    """Ten steps, three points: after floor(10/3) + 1 = 4, 7 and 10 steps."""
    signal = Signal(points=3, rows=1)
    assert {step: signal.point(step, 10) for step in range(1, 11) if signal.point(step, 10)} == {4: 1, 7: 2, 10: 3}


def test_fewer_steps_than_points() -> None:
    """Two steps, five points: the middle is past the second point, the end is the fifth."""
    assert [Signal(points=5, rows=1).point(step, 2) for step in (1, 2)] == [2, 5]


@given(st.integers(1, 40), st.integers(1, 200))
def test_the_last_step_is_always_the_last_point_and_points_rise(points: int, steps: int) -> None:
    due = [point for step in range(1, steps + 1) if (point := Signal(points, 1).point(step, steps)) is not None]
    assert due == sorted(set(due))
    assert due[-1] == points
    assert len(due) == min(points, steps)


def test_the_slice_is_spread_over_the_rows() -> None:
    assert Signal(1, 4).slice(8) == [0, 2, 4, 6]
    assert Signal(1, 4).slice(3) == [0, 1, 2]
    assert Signal(1, 4).slice(0) == []


def probability(folder: Path, rows: tuple[Row, ...]) -> float:
    """exp(mean log-probability of the answer's tokens), mean over rows: from whole logits, one text at a time."""
    model, tokenizer = load_pretrained(ModelSpec(source=str(folder)), dtype=torch.float32)
    encoder = text_encoder(ModelSpec(source=str(folder), max_length=64), tokenizer)
    found = []
    for row in rows:
        text = encoder.encode_row(row)
        logp_TV = model(torch.tensor([text.input_ids])).logits[0, :-1].log_softmax(-1)
        logp_T = logp_TV[torch.arange(len(text.input_ids) - 1), torch.tensor(text.input_ids[1:])]
        found.append(logp_T[text.prompt_length - 1 :].mean().exp().item())
    return sum(found) / len(found)


@pytest.mark.usefixtures("process_group")
def test_the_signal_of_a_training_is_logged_and_right(tiny: Path, tmp_path: Path) -> None:
    """With a learning rate that changes no float32 weight, every signal is the starting model's."""
    from dataclasses import replace

    run = replace(job(tiny, tmp_path, learning_rate=1e-30), signal=Signal(points=2, rows=4))
    train(run)
    signals = {line["step"]: line["signal"] for line in read_steps(tmp_path) if "signal" in line}
    assert [(step, signal["point"]) for step, signal in signals.items()] == [(2, 1), (4, 2)]
    for signal in signals.values():
        assert signal["forget"] == pytest.approx(probability(tiny, FORGET[::2]), rel=1e-4)
        assert signal["retain"] == pytest.approx(probability(tiny, tuple(RETAIN[i] for i in (0, 2, 5, 7))), rel=1e-4)


@pytest.mark.usefixtures("process_group")
def test_measuring_changes_no_step(tiny: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    plain = job(tiny, tmp_path / "plain")
    train(plain)
    train(replace(job(tiny, tmp_path / "watched"), signal=Signal(points=4, rows=3)))
    parts = [[line["parts"] for line in read_steps(tmp_path / name)] for name in ("plain", "watched")]
    assert parts[0] == parts[1]


def test_a_collapsed_model_is_named(tiny: Path, tmp_path: Path) -> None:
    from obliviate.train.batch import Texts
    from obliviate.train.model import build

    with single_process():
        model = build(
            ModelSpec(source=str(tiny), compute_dtype="float32"),
            seed=0, activation_checkpointing=False, device=torch.device("cpu"),
        )  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        _, tokenizer = load_pretrained(ModelSpec(source=str(tiny)), dtype=torch.float32)
        texts = Texts(text_encoder(ModelSpec(source=str(tiny)), tokenizer), FORGET, RETAIN, ())
        with pytest.raises(UserError, match="the model has collapsed: the probability of a forget answer"):
            measure(model, texts, Slices([0], [0]), size=2, max_length=64, device=torch.device("cpu"))
