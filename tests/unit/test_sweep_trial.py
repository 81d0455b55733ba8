"""One trial in this process: what it tells, what it records, what is not done again, and how it fails."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file
from test_cli import FORGET, RETAIN, write_rows

from obliviate.config import UnlearnRun, build, load
from obliviate.errors import UserError
from obliviate.models import content_of
from obliviate_cli.stages import unlearn_job
from obliviate_cli.sweep import trial as trials
from obliviate_cli.sweep.calibrate import calibrate
from obliviate_cli.sweep.promote import promote
from obliviate_cli.sweep.records import Trial, TrialRecord, read_records
from obliviate_cli.sweep.result import BASE, Result, write_result
from obliviate_cli.sweep.run import open_sweep
from obliviate_cli.sweep.space import Point
from obliviate_cli.sweep.spec import SweepRun
from obliviate_cli.sweep.trial import Shared, perform

POINT = Point("npo+gd", {"method.beta": 0.5})


@pytest.fixture(autouse=True)
def _no_judges_kept() -> Iterator[None]:
    yield
    trials._measure.cache_clear()


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> SweepRun:
    values = {
        "title": "Two",
        "model": {"source": str(tiny), "compute_dtype": "float32", "max_length": 64},
        "data": {
            "type": "files",
            "forget": str(write_rows(tmp_path / "forget.jsonl", FORGET)),
            "retain": str(write_rows(tmp_path / "retain.jsonl", RETAIN)),
        },
        "space": {"methods": {"npo+gd": {"method.beta": [0.1, 0.5]}}},
        "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 4},
        "evaluation": {
            "engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 4},
            "encoder": None, "nli": None, "resamples": 100,
        },
        "signal": {"points": 2, "rows": 4},
        "runs": str(tmp_path / "runs"),
    }  # fmt: skip
    return build(SweepRun, values, where="test")


@pytest.fixture
def shared(config: SweepRun) -> Shared:
    return share(config)


def share(config: SweepRun) -> Shared:
    corpus = config.data.load()
    directory = open_sweep(config, corpus).directory
    return Shared(directory, config, corpus, config.evaluation, config.model, None, threads=1)


def run(shared: Shared, point: Point = POINT, seed: int = 0) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    perform(Trial(point, seed), shared, told.append)
    return told


def only(shared: Shared) -> TrialRecord:
    (record,) = read_records(shared.directory)
    return record


def test_it_tells_the_signal_and_then_the_figures(shared: Shared) -> None:
    """Sixteen anchors in four steps, two points: after steps 2 and 4."""
    told = run(shared)
    assert [(each["point"], each["step"]) for each in told] == [(1, 2), (2, 4), (3, 4)]
    for each in told[:2]:
        kept, gone = each["retain_probability"], 1 - each["forget_probability"]
        assert each["signal"] == pytest.approx(kept * gone)
        assert "forget" not in each
    record = only(shared)
    assert record.status == "done"
    assert (told[-1]["forget"], told[-1]["utility"]) == (record.forget, record.utility)
    assert record.steps == 4
    assert record.run is not None
    assert (Path(record.run) / "model" / "config.json").exists()


def test_what_is_done_is_told_again_without_doing_it(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    told = run(shared)
    monkeypatch.setattr(trials, "_train_and_measure", None)
    assert run(shared) == told


def test_another_sweep_over_the_same_point_finds_the_model(config: SweepRun, monkeypatch: pytest.MonkeyPatch) -> None:
    first = share(config)
    told = run(first)
    second = share(config.model_copy(update={"title": "Another"}))
    assert second.directory != first.directory
    monkeypatch.setattr(trials, "_train_here", None)
    assert run(second) == told


def test_a_trial_that_was_stopped_stays_so(shared: Shared) -> None:
    """The scheduler stops it as Ray Tune does, with SystemExit out of the report."""

    def stop(metrics: dict[str, Any]) -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        perform(Trial(POINT, 0), shared, stop)
    record = only(shared)
    assert record.status == "running"
    assert not record.settled
    assert run(shared)[-1]["forget"] is not None  # the process group was closed: another training can begin


def test_a_loss_that_is_not_finite_is_recorded_with_its_cause(shared: Shared) -> None:
    told = run(shared, Point("npo+gd", {"optim.learning_rate": 1e30}))
    record = only(shared)
    assert record.status == "failed"
    assert "Lower optim.learning_rate" in record.cause
    assert all("forget" not in each for each in told)
    assert run(shared, Point("npo+gd", {"optim.learning_rate": 1e30})) == []  # for good: not tried again


def test_the_reproducing_command_lands_in_the_same_run(shared: Shared, tmp_path: Path) -> None:
    run(shared)
    result = Result.of(shared.config, shared.directory, shared.target.source, (0.1, 0.9))
    write_result(result, Console(quiet=True))
    verb, path, *overrides = result.command(only(shared)).split()[1:]
    assert (verb, path) == ("unlearn", str(shared.directory / BASE))
    config = load(UnlearnRun, Path(path), overrides)
    assert str(unlearn_job(config, config.data.load(), Console(quiet=True))[0].directory) == only(shared).run


def test_a_models_copy_on_the_node_is_made_once(config: SweepRun, tmp_path: Path) -> None:
    shared = share(config.model_copy(update={"node_cache": str(tmp_path / "cache")}))
    near = trials._near(config.model, shared)
    assert Path(near.source).parent == tmp_path / "cache"
    assert sorted(f.name for f in Path(near.source).iterdir()) == sorted(
        f.name for f in Path(config.model.source).iterdir()
    )
    written_ns = Path(near.source).stat().st_mtime_ns
    assert trials._near(config.model, shared).source == near.source
    assert Path(near.source).stat().st_mtime_ns == written_ns
    assert trials._near(config.model, share(config)).source == config.model.source


def test_a_method_that_never_keeps_enough_is_brought_back_to_the_original(shared: Shared) -> None:
    """The original is said to have utility 1, which no mixture reaches: the share is 0, the model the original."""
    run(shared)
    result = Result.of(shared.config, shared.directory, shared.target.source, (0.1, 1.0))
    (found,) = calibrate(result, shared, Console(quiet=True))
    assert (found.method, found.trial) == ("npo+gd", only(shared).id)
    assert (found.share, found.forget, found.utility) == (0.0, 0.1, 1.0)
    ours, original = (load_file(Path(each) / "model.safetensors") for each in (found.model, shared.target.source))
    assert all(bool((ours[name] == original[name]).all()) for name in original)
    measured = [path.name for path in Path(shared.config.runs).glob("evaluate-*-at-*")]
    assert len(measured) == 5
    assert not (Path(found.model).parent / "shares").exists()
    assert calibrate(result, shared, Console(quiet=True)) == (found,)  # from disk


class TestPromote:
    def test_the_models_run_gets_a_name(self, shared: Shared, tmp_path: Path) -> None:
        run(shared)
        record = only(shared)
        assert record.run is not None
        folder = promote(record.id[:4], "best", tmp_path / "runs", Console(quiet=True))
        assert folder == tmp_path / "runs" / "models" / "best" / "model"
        model = shared.config.model
        assert content_of(model.model_copy(update={"source": str(folder)})) == content_of(
            model.model_copy(update={"source": str(Path(record.run) / "model")})
        )
        assert (folder.parent / "run.json").exists()
        with pytest.raises(UserError, match="best is there already; give another name"):
            promote(record.id, "best", tmp_path / "runs", Console(quiet=True))

    def test_what_cannot_be_promoted(self, shared: Shared, tmp_path: Path) -> None:
        runs, quiet = tmp_path / "runs", Console(quiet=True)
        with pytest.raises(UserError, match=r"nothing: no sweep in .* has such a trial"):
            promote("nothing", None, runs, quiet)
        TrialRecord("ab-s0", "ga", {}, 0, "failed", cause="NaN").write(shared.directory)
        TrialRecord("ab-s1", "ga", {}, 1, "done", run=str(tmp_path / "gone")).write(shared.directory)
        with pytest.raises(UserError, match="ab-s0: is failed: NaN, and has no finished model"):
            promote("ab-s0", None, runs, quiet)
        with pytest.raises(UserError, match="ab: 2 trials begin so: ab-s0, ab-s1; give one of them"):
            promote("ab", None, runs, quiet)
        with pytest.raises(UserError, match="has no model any more"):
            promote("ab-s1", None, runs, quiet)


def test_a_folder_that_cannot_be_written(config: SweepRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"runs: .*cannot be written"):
        share(config.model_copy(update={"runs": str(tmp_path / "file")}))


def test_changed_data_is_another_sweep(config: SweepRun, tmp_path: Path) -> None:
    first = share(config).directory
    shutil.copy(tmp_path / "forget.jsonl", tmp_path / "kept.jsonl")
    write_rows(tmp_path / "forget.jsonl", FORGET[:-1])
    assert share(config).directory != first
