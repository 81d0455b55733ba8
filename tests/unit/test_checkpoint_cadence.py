"""When a checkpoint is due: by steps, or by a clock that these tests turn themselves."""

import pytest

from obliviate.train import checkpoint
from obliviate.train.checkpoint import Cadence
from obliviate.train.loop import single_process


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one number is the time in seconds."""
    now_s = [1000.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now_s[0])
    return now_s


def test_every_third_step() -> None:
    due = Cadence(3)
    assert [step for step in range(1, 10) if due(step)] == [3, 6, 9]


def test_by_the_clock_a_short_run_needs_none(clock: list[float]) -> None:
    with single_process():
        due = Cadence(None)
        clock[0] += 119
        assert not due(50)
        clock[0] += 1
        assert due(51)


def test_saving_takes_a_twentieth_of_the_time_at_most(clock: list[float]) -> None:
    with single_process():
        due = Cadence(None)
        with due.saving():
            clock[0] += 30  # 30 s of 600: the next one 600 s after
        clock[0] += 599
        assert not due(1)
        clock[0] += 1
        assert due(2)
        with due.saving():
            clock[0] += 1  # 20 s would do, but two minutes is often enough
        clock[0] += 119
        assert not due(3)
        clock[0] += 1
        assert due(4)
