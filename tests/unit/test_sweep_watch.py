"""What a running sweep shows and records, told as Ray Tune would tell it."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_sweep_space import sweep

from obliviate_cli.console import Terminal
from obliviate_recipes.sweeps.records import Trial, TrialRecord, read_records
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.watch import Watch

CONFIG = sweep({"methods": {"npo+gd": {"method.beta": [0.1, 0.5]}}}, title="Watched")


class Tuned:
    """Ray Tune's trial, as far as the callback looks at it."""

    def __init__(self, beta: float, error: str = "") -> None:
        self.config = {"method": "npo+gd", "values": {"method.beta": beta}, "seed": 0}
        self._error = error

    def get_error(self) -> str | None:
        return self._error or None

    @property
    def ours(self) -> Trial:
        return Trial(CONFIG.canonical(Point("npo+gd", self.config["values"])), 0)  # type: ignore[arg-type]


def told(signal: float, step: int) -> dict[str, Any]:
    figures = {"signal": signal, "forget_probability": 0.5, "retain_probability": 2 * signal}
    return {"point": step // 2, "step": step, "steps": 8, **figures, "time_total_s": 1.0}


def watched(tmp_path: Path, console: Console, tuned: Tuned, record: TrialRecord, *, error: bool = False) -> TrialRecord:
    """A trial from its start to its end, after two signals; `record` is what it left on disk."""
    with Watch(tmp_path, CONFIG, 2, Terminal(console)) as watch:
        watch.on_trial_start(0, [], tuned)
        record.write(tmp_path)
        for step in (2, 4):
            watch.on_trial_result(0, [], tuned, told(0.1 * step, step))
        (watch.on_trial_error if error else watch.on_trial_complete)(0, [], tuned)
    (found,) = read_records(tmp_path)
    return found


@pytest.fixture
def log() -> StringIO:
    return StringIO()


@pytest.fixture
def console(log: StringIO) -> Console:
    return Console(file=log, width=200)


def test_a_trial_that_ended_unfinished_was_stopped(tmp_path: Path, console: Console, log: StringIO) -> None:
    tuned = Tuned(0.5)
    record = watched(tmp_path, console, tuned, TrialRecord.start(tuned.ours))
    assert (record.status, record.steps) == ("stopped", 4)
    assert [(each["point"], each["signal"]) for each in record.signals] == [(1, 0.2), (2, 0.4)]
    assert "time_total_s" not in record.signals[0]
    assert "1/2" in log.getvalue()
    assert "method.beta=0.5 seed 0: stopped after 4 steps, signal 0.400" in log.getvalue()


def test_a_trial_that_is_done_is_on_the_front(tmp_path: Path, console: Console, log: StringIO) -> None:
    tuned = Tuned(0.1)
    done = TrialRecord(tuned.ours.id, "npo+gd", {"method.beta": 0.1}, 0, "done", forget=0.75, utility=0.5)
    assert watched(tmp_path, console, tuned, done) == done
    assert "forget 0.750, utility 0.500" in log.getvalue()
    assert f"front: {tuned.ours.id}" in log.getvalue()


def test_what_crashed_is_recorded_with_the_last_line_of_its_error(
    tmp_path: Path, console: Console, log: StringIO
) -> None:
    tuned = Tuned(0.1, "Traceback (most recent call last):\n  File ...\ntorch.OutOfMemoryError: CUDA out of memory\n")
    record = watched(tmp_path, console, tuned, TrialRecord.start(tuned.ours), error=True)
    assert (record.status, record.cause) == ("crashed", "torch.OutOfMemoryError: CUDA out of memory")
    assert not record.settled
    assert "crashed: torch.OutOfMemoryError: CUDA out of memory" in log.getvalue()


def test_a_process_that_left_no_word(tmp_path: Path, console: Console) -> None:
    tuned = Tuned(0.1)
    assert watched(tmp_path, console, tuned, TrialRecord.start(tuned.ours), error=True).cause == (
        "the trial's process died"
    )


def test_a_terminal_shows_a_table_with_front_and_running_trials(tmp_path: Path) -> None:
    log = StringIO()
    console = Console(file=log, force_terminal=True, width=160, height=50, color_system=None)
    done, running = Tuned(0.1), Tuned(0.5)
    TrialRecord(done.ours.id, "npo+gd", {"method.beta": 0.1}, 0, "done", forget=0.75, utility=0.5).write(tmp_path)
    with Watch(tmp_path, CONFIG, 2, Terminal(console)) as watch:
        watch.on_trial_start(0, [], done)
        watch.on_trial_complete(0, [], done)
        watch.on_trial_start(0, [], running)
        watch.on_trial_result(0, [], running, told(0.25, 4))
    shown = log.getvalue()
    assert "Watched: 1 of 2 trials ended" in shown
    assert "0.750" in shown
    assert "front" in shown
    assert running.ours.id in shown
    assert "4/8 signal 0.250" in shown
