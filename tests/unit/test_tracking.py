"""Trackers are told of every run once: while it is made, after a kill, and of runs that were made before."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from obliviate.config import FinetuneRun, build
from obliviate.digests import sealed
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.tracking import (
    MlflowTracking,
    TensorBoardTracking,
    Tracked,
    TrackingSpec,
    TrackioTracking,
    WandbTracking,
)
from obliviate_recipes.events import Quiet
from obliviate_recipes.stages.training import resolved
from obliviate_recipes.tracking import board, tracker
from obliviate_recipes.tracking.board import Begun, Ended, flat, parameters
from obliviate_recipes.tracking.tracker import tracked


class Told(Quiet):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, text: str) -> None:
        self.warnings.append(text)


class Config(Tracked):
    title: str = "a job"
    runs: str


def steps_in(run: Run, *steps: int) -> None:
    """As a training logs them."""
    with (run.directory / "steps.jsonl").open("a") as file:
        for step in steps:
            line = {"step": step, "steps": 4, "loss": step / 10, "parts": {"me": 1.0 + step}, "held_out": {"kl": None}}
            file.write(json.dumps(sealed(line)) + "\n")


def training(runs: Path, label: str = "ME+GD") -> Run:
    return Run.at(runs, "unlearn", label, {"optim": {"rates": [1e-5]}, "model": "m"}, {"data": "d"}).begin()


def measured(runs: Path) -> Run:
    run = Run.at(runs, "evaluate", "ME+GD", {"n": 1}, {}).begin()
    figures = {"sets": {"forget": {"rouge": {"value": 0.5, "low": 0.25, "over_seeds": None}}}}
    (run.directory / "metrics.json").write_text(json.dumps(figures))
    (run.directory / "report.html").write_text("<p>report")
    run.finish()
    return run


class Recorded:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.began: list[Begun] = []
        self.steps: list[tuple[str, int, dict[str, float]]] = []
        self.ends: list[tuple[str, Ended]] = []
        self.left: list[str] = []
        self.broken = False

    def open(self, begun: Begun) -> Any:
        if self.broken:
            raise RuntimeError("no answer\nfrom the server")
        self.began.append(begun)
        return SimpleNamespace(
            step=lambda step, values: self.steps.append((begun.id, step, dict(values))),
            end=lambda ended: self.ends.append((begun.id, ended)),
            leave=lambda: self.left.append(begun.id),
        )


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found = Recorded()
    monkeypatch.setattr(tracker, "open_board", lambda spec, runs: found)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(runs=str(tmp_path), tracking=WandbTracking(mode="offline"))


class TestTold:
    def test_steps_are_told_while_it_is_made(
        self, recorded: Recorded, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracker, "LOOKS_EVERY_S", 0.01)
        run = training(tmp_path)
        with tracked(config, Told()) as events:
            events.began(run.directory)
            steps_in(run, 1)
            while not recorded.steps:
                pass
            steps_in(run, 2)
            run.finish(steps=2)
            events.ended(run.directory)
        assert [(step, values) for _, step, values in recorded.steps] == [
            (1, {"loss": 0.1, "parts/me": 2.0}), (2, {"loss": 0.2, "parts/me": 3.0})]  # fmt: skip
        ((_, ended),) = recorded.ends
        assert ended.figures == {"done/steps": 2.0}
        assert not ended.failed
        (begun,) = recorded.began
        assert (begun.name, begun.kind, begun.group) == ("unlearn ME+GD", "unlearn", "a job")
        assert begun.config["inputs"] == {"data": "d"}
        assert begun.config["content"] == run.content

    def test_one_that_was_killed_is_taken_up_where_it_stopped(
        self, recorded: Recorded, config: Config, tmp_path: Path
    ) -> None:
        run = training(tmp_path)
        with tracked(config, Told()) as events:
            events.began(run.directory)
            steps_in(run, 1, 2)
        assert [step for _, step, _ in recorded.steps] == [1, 2]
        assert len(recorded.left) == 1
        steps_in(run, 3)
        run.finish()
        for _ in range(2):  # and the third time nothing is left to tell
            with tracked(config, Told()) as events:
                events.ended(run.directory)
        assert [step for _, step, _ in recorded.steps] == [1, 2, 3]
        assert len(recorded.ends) == 1
        assert [begun.resumed for begun in recorded.began] == [False, True]
        assert len({begun.id for begun in recorded.began}) == 1

    def test_another_tracker_is_told_of_what_was_made_before(
        self, recorded: Recorded, config: Config, tmp_path: Path
    ) -> None:
        run = measured(tmp_path)
        for spec in (config.tracking, TensorBoardTracking(), config.tracking):
            with tracked(config.model_copy(update={"tracking": spec}), Told()) as events:
                events.ended(run.directory)
        (_, first), (_, _) = recorded.ends
        assert first.figures == {"sets/forget/rouge/value": 0.5, "sets/forget/rouge/low": 0.25}
        assert [file.name for file in first.files] == ["report.html"]

    def test_a_report_that_is_written_anew_is_told_again(
        self, recorded: Recorded, config: Config, tmp_path: Path
    ) -> None:
        run = measured(tmp_path)
        with tracked(config, Told()) as events:
            events.ended(run.directory)
            (run.directory / "report.json").write_text("{}")
            events.ended(run.directory)
        assert len(recorded.ends) == 2

    def test_a_run_with_nothing_to_show_is_not_shown(self, recorded: Recorded, config: Config, tmp_path: Path) -> None:
        run = Run.at(tmp_path, "records", "ME+GD", {}, {}).begin()
        with tracked(config, Told()) as events:
            events.began(run.directory)
            run.finish()
            events.ended(run.directory)
        assert recorded.began == []

    def test_a_tracker_that_does_not_answer_ends_nothing(
        self, recorded: Recorded, config: Config, tmp_path: Path
    ) -> None:
        told, run, recorded.broken = Told(), measured(tmp_path), True
        with tracked(config, told) as events:
            events.ended(run.directory)
        (warning,) = told.warnings
        assert warning.startswith("wandb: ")
        assert warning.endswith("is not logged (no answer): the same command logs it later")
        recorded.broken = False
        with tracked(config, told) as events:
            events.ended(run.directory)
        assert len(recorded.ends) == 1

    def test_what_a_tracker_was_told_is_no_damage(self, recorded: Recorded, config: Config, tmp_path: Path) -> None:
        run = measured(tmp_path)
        with tracked(config, Told()) as events:
            events.ended(run.directory)
        assert (run.directory / ".tracked.json").exists()
        assert run.damage(read=True) == {}


def shown_by_tensorboard(runs: Path) -> dict[str, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (runs / "tensorboard").iterdir()
    found = EventAccumulator(str(folder)).Reload()
    assert "config/text_summary" in found.Tags()["tensors"]
    assert [each.step for each in found.Scalars("loss")] == [1, 2, 3]
    return {"loss": found.Scalars("loss")[-1].value, "figure": found.Scalars("sets/forget/rouge/value")[-1].value}


def wandb_records(path: Path) -> Iterator[bytes]:
    """Of an offline run's file: a LevelDB log behind 7 bytes of header, in blocks of 32 KiB."""
    data, part = path.read_bytes(), b""
    at = 7
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield part
            part = b""


def shown_by_wandb(runs: Path) -> dict[str, float]:
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, float] = {}
    steps: list[int] = []
    for path in sorted(runs.glob("wandb/offline-run-*/*.wandb")):
        for data in wandb_records(path):
            record = Record()
            record.ParseFromString(data)
            items = [("/".join(item.nested_key) or item.key, json.loads(item.value_json))
                     for item in (*record.history.item, *record.summary.update)]  # fmt: skip
            found |= dict(items)
            steps += [record.history.step.num] if record.history.item else []
    assert steps == [1, 2, 3]
    return {"loss": found["loss"], "figure": found["sets/forget/rouge/value"]}


def shown_by_mlflow(runs: Path) -> dict[str, float]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("obliviate").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["config.optim.rates.0"] == "1e-05"
    assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["report.html"]
    assert [each.step for each in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3]
    return {"loss": run.data.metrics["loss"], "figure": run.data.metrics["sets/forget/rouge/value"]}


def shown_by_trackio(runs: Path) -> dict[str, float]:
    # Its folder is fixed when it is imported: a process of its own reads it.
    script = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as s; "
        "(run,) = s.get_runs('obliviate'); print(json.dumps(s.get_logs('obliviate', run)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    logs = json.loads(done.stdout.splitlines()[-1])
    assert [each["step"] for each in logs if "loss" in each] == [1, 2, 3]
    found = {key: value for each in logs for key, value in each.items()}
    return {"loss": found["loss"], "figure": found["sets/forget/rouge/value"]}


TRACKERS: dict[str, tuple[TrackingSpec, Callable[[Path], dict[str, float]]]] = {
    "tensorboard": (TensorBoardTracking(), shown_by_tensorboard),
    "wandb": (WandbTracking(mode="offline"), shown_by_wandb),
    "mlflow": (MlflowTracking(), shown_by_mlflow),
    "trackio": (TrackioTracking(), shown_by_trackio),
}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.usefixtures("offline")
def test_each_tracker_shows_steps_figures_and_the_report_of_a_run_that_was_killed(name: str, tmp_path: Path) -> None:
    if name != "tensorboard":
        pytest.importorskip(name, reason=f"{name} is not installed")
    _, shown = TRACKERS[name]
    # In processes of their own, as commands are: each library holds on to the first folder that it sees.
    script = f"""
import sys; sys.path[:0] = {json.dumps(sys.path)}
from pathlib import Path
from test_tracking import *
runs, last = Path(sys.argv[1]), sys.argv[2] == "last"
run = training(runs)
with tracked(Config(runs=str(runs), tracking=TRACKERS[{name!r}][0]), told := Told()) as events:
    events.began(run.directory)
    steps_in(run, *((3,) if last else (1, 2)))
    if last:
        figures = {{"sets": {{"forget": {{"rouge": {{"value": 0.5}}}}}}}}
        (run.directory / "metrics.json").write_text(json.dumps(figures))
        (run.directory / "report.html").write_text("<p>report")
        run.finish(steps=3)
        events.ended(run.directory)
assert told.warnings == [], told.warnings
"""
    for which in ("first", "last"):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path), which], env=environment,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert shown(tmp_path) == {"loss": pytest.approx(0.3), "figure": pytest.approx(0.5)}


class TestBefore:
    """What is wrong is told before anything is made."""

    @pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
    def test_a_library_that_is_not_installed(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, name, None)
        with (
            pytest.raises(UserError, match=rf"tracking.type: {name}: .* pip install 'obliviate\[{name}\]'"),
            tracked(Config(runs=str(tmp_path), tracking=TRACKERS[name][0]), Told()),
        ):
            pass

    @pytest.mark.usefixtures("offline")
    def test_nobody_is_logged_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("wandb", reason="wandb is not installed")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        with pytest.raises(UserError, match=r"tracking: wandb: .*tracking.mode=offline"):
            board.open_board(WandbTracking(), tmp_path)

    def test_an_mlflow_that_cannot_be_used(self, tmp_path: Path) -> None:
        pytest.importorskip("mlflow", reason="mlflow is not installed")
        with pytest.raises(UserError, match=r"tracking.uri: nowhere://x: cannot be used"):
            board.open_board(MlflowTracking(uri="nowhere://x"), tmp_path)

    def test_a_typo(self) -> None:
        with pytest.raises(UserError, match=r"tracking.projct: unknown key; did you mean project\?"):
            build(Config, {"runs": "runs", "tracking": {"type": "wandb", "projct": "x"}}, where="c.yaml")


def test_no_result_depends_on_it() -> None:
    values = {"model": {"source": "m"}, "data": {"type": "fictitious"}}
    plain = build(FinetuneRun, values, where="c.yaml")
    with_tracker = build(FinetuneRun, {**values, "tracking": {"type": "tensorboard"}}, where="c.yaml")
    assert resolved(plain) == resolved(with_tracker)
    assert "tracking" not in plain.model_dump()


def test_flat() -> None:
    nested = {"a": {"b": [1, {"c": None}]}, "d": "x"}
    assert dict(flat(nested)) == {"a/b/0": 1, "a/b/1/c": None, "d": "x"}
    assert parameters(nested) == {"a.b.0": 1, "a.b.1.c": "None", "d": "x"}
