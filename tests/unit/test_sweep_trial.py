"""One trial in this process: what it tells, what it records, what is not done again, and how it fails."""

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from test_cli import FORGET, RETAIN, write_rows

from damage import WAYS, flip
from obliviate.config import UnlearnRun, build, load
from obliviate.digests import DIGESTS
from obliviate.errors import UserError
from obliviate.models import content_of
from obliviate.runs import DONE_FILE, Run
from obliviate_recipes.events import QUIET
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.sweeps import recipe as sweeps
from obliviate_recipes.sweeps import trial as trials
from obliviate_recipes.sweeps.calibrate import calibrate
from obliviate_recipes.sweeps.keep import find_trial, keep
from obliviate_recipes.sweeps.ranking import rank
from obliviate_recipes.sweeps.recipe import Sweep, open_sweep
from obliviate_recipes.sweeps.records import Trial, TrialRecord, read_records
from obliviate_recipes.sweeps.result import BASE, Result, write_result
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.spec import Objectives, SweepRun
from obliviate_recipes.sweeps.trial import Shared, perform
from obliviate_recipes.sweeps.tuning import killed_for_memory_is_dead

POINT = Point("npo+gd", {"method.beta": 0.5})


@pytest.fixture(autouse=True)
def _no_judges_kept() -> Iterator[None]:
    yield
    trials._measuring.cache_clear()


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
    """With its figures from the first signal on: a scheduler that now stops it keeps them from no sampler."""
    told = run(shared)
    monkeypatch.setattr(trials, "_train_and_measure", None)
    figures = {"forget": told[-1]["forget"], "utility": told[-1]["utility"]}
    assert run(shared) == [{**each, **figures} for each in told]


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


def test_a_trial_without_signals_tells_its_figures_alone() -> None:
    """A task vector's training is not looked at: a point and a signal made up for it would move the schedulers' bar."""
    record = TrialRecord("ab-s0", "task_vector", {}, 0, "done", forget=0.4, utility=0.6)
    assert trials._final(record) == {"forget": 0.4, "utility": 0.6}


def test_what_can_be_mended_is_tried_again(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be reached is no property of the trial."""

    def full(*_: object) -> None:
        raise UserError("runs: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(trials, "_train_here", full)
        assert run(shared) == []
    assert (only(shared).status, only(shared).cause) == ("crashed", "runs: no space left")
    run(shared)
    assert only(shared).status == "done"


def test_a_trial_that_others_measure_already_waits_for_them(shared: Shared) -> None:
    """Those of a driver that was just killed, or of another sweep: what they find is taken."""
    run(shared)
    record = only(shared)
    assert record.evaluation is not None
    folder = Path(record.evaluation)
    done = (folder / DONE_FILE).read_bytes()
    (folder / DONE_FILE).unlink()
    (shared.directory / "trials" / f"{record.id}.json").unlink()
    other = Run(folder, "")
    held, left = threading.Event(), threading.Event()

    def measure() -> None:
        with other.locked():
            held.set()
            left.wait(20)
            (folder / DONE_FILE).write_bytes(done)

    thread = threading.Thread(target=measure)
    thread.start()
    assert held.wait(20)
    timer = threading.Timer(0.5, left.set)
    timer.start()
    run(shared)
    thread.join()
    assert only(shared) == replace(record, train_s=only(shared).train_s, evaluate_s=only(shared).evaluate_s)


def test_the_reproducing_command_lands_in_the_same_run(shared: Shared, tmp_path: Path) -> None:
    run(shared)
    result = Result.of(shared.config, shared.directory, shared.target.source, (0.1, 0.9))
    write_result(result, QUIET)
    verb, path, *overrides = result.command(only(shared)).split()[1:]
    assert (verb, path) == ("unlearn", str(shared.directory / BASE))
    config = load(UnlearnRun, Path(path), overrides)
    assert str(unlearning_stage(config, config.data.load()).run.directory) == only(shared).run


def test_engines_share_what_a_trials_workers_have(config: SweepRun) -> None:
    """Two workers of 3 CPUs and half a GPU, four replicas: each gets half of that. What the config says stays."""
    engine = config.evaluation.engine.model_copy(update={"replicas": 4})
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"engine": engine})})
    placed = sweeps.Places(cpus=3.0, gpus=0.5, workers=2, concurrency=5).applied_to(config)
    assert (placed.cluster.cpus_per_worker, placed.cluster.gpus_per_worker) == (3.0, 0.5)
    assert (placed.evaluation.engine.cpus_per_replica, placed.evaluation.engine.gpus_per_replica) == (1.5, 0.25)
    own = engine.model_copy(update={"cpus_per_replica": 7.0, "gpus_per_replica": 0.0})
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"engine": own})})
    placed = sweeps.Places(cpus=3.0, gpus=0.5, workers=2, concurrency=5).applied_to(config)
    assert (placed.evaluation.engine.cpus_per_replica, placed.evaluation.engine.gpus_per_replica) == (7.0, 0.0)


def test_a_models_copy_on_the_node_is_made_once(config: SweepRun, tmp_path: Path) -> None:
    shared = share(config.model_copy(update={"node_cache": str(tmp_path / "cache")}))
    near = trials._near(config.model, shared)
    assert Path(near.source).parent == tmp_path / "cache"
    found = {f.name for f in Path(near.source).iterdir()}
    assert found == {DIGESTS, *(f.name for f in Path(config.model.source).iterdir())}
    written_ns = Path(near.source).stat().st_mtime_ns
    assert trials._near(config.model, shared).source == near.source
    assert Path(near.source).stat().st_mtime_ns == written_ns
    assert trials._near(config.model, share(config)).source == config.model.source


def test_a_damaged_copy_on_the_node_is_made_again(config: SweepRun, tmp_path: Path) -> None:
    shared = share(config.model_copy(update={"node_cache": str(tmp_path / "cache")}))
    weights = Path(trials._near(config.model, shared).source) / "model.safetensors"
    whole = weights.read_bytes()
    flip(weights)
    trials._near(config.model, shared)
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_record_is_written_again_of_what_is_done(
    shared: Shared, way: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, record = run(shared), only(shared)
    way(shared.directory / "trials" / f"{record.id}.json")
    assert read_records(shared.directory) == []
    assert run(shared)[-1] == told[-1]
    assert replace(only(shared), train_s=0, evaluate_s=0) == replace(record, train_s=0, evaluate_s=0)


def test_a_damaged_model_is_not_kept(shared: Shared, tmp_path: Path) -> None:
    run(shared)
    record = only(shared)
    flip(Path(str(record.run)) / "model" / "model.safetensors")
    with pytest.raises(UserError, match=r"model/model.safetensors is not as it was written; run the sweep's command"):
        keep(record.id, "mine", Path(shared.config.runs), QUIET)
    assert not (Path(shared.config.runs) / "models" / "mine").exists()


def test_another_model_under_the_same_path_is_copied_too(config: SweepRun, tmp_path: Path) -> None:
    shared = share(config.model_copy(update={"node_cache": str(tmp_path / "cache")}))
    source = shutil.copytree(config.model.source, tmp_path / "model")
    model = config.model.model_copy(update={"source": str(source)})
    near = trials._near(model, shared)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"0000")
    changed = trials._near(model, shared)
    assert (Path(changed.source) / weights.name).read_bytes() == weights.read_bytes()
    assert (Path(near.source) / weights.name).read_bytes() != weights.read_bytes()


def test_a_method_that_never_keeps_enough_is_brought_back_to_the_original(shared: Shared) -> None:
    """The original is said to have utility 1, which no mixture reaches: the share is 0, the model the original."""
    run(shared)
    result = Result.of(shared.config, shared.directory, shared.target.source, (0.1, 1.0))
    (found,) = calibrate(result, shared, QUIET)
    assert (found.method, found.trial) == ("npo+gd", only(shared).id)
    assert (found.share, found.forget, found.utility) == (0.0, 0.1, 1.0)
    ours, original = (load_file(Path(each) / "model.safetensors") for each in (found.model, shared.target.source))
    assert all(bool((ours[name] == original[name]).all()) for name in original)
    measured = [path.name for path in Path(shared.config.runs).glob("evaluate-*-at-*")]
    assert len(measured) == 5
    assert not (Path(found.model).parent / "shares").exists()
    assert calibrate(result, shared, QUIET) == (found,)  # from disk


class TestPromote:
    def test_the_models_run_gets_a_name(self, shared: Shared, tmp_path: Path) -> None:
        run(shared)
        record = only(shared)
        assert record.run is not None
        folder = keep(record.id[:4], "best", tmp_path / "runs", QUIET)
        assert folder == tmp_path / "runs" / "models" / "best" / "model"
        model = shared.config.model
        assert content_of(model.model_copy(update={"source": str(folder)})) == content_of(
            model.model_copy(update={"source": str(Path(record.run) / "model")})
        )
        assert (folder.parent / "run.json").exists()
        with pytest.raises(UserError, match="best is there already; give another name"):
            keep(record.id, "best", tmp_path / "runs", QUIET)
        for name in ("../best", "a/b", ".."):
            with pytest.raises(UserError, match=f"--name: {re.escape(name)}: give a plain name"):
                keep(record.id, name, tmp_path / "runs", QUIET)

    def test_a_trial_of_two_sweeps_with_two_models_is_not_guessed(self, shared: Shared, tmp_path: Path) -> None:
        """The same method, values and seed on other data have the same id."""
        run(shared)
        record, other = only(shared), shared.directory.with_name("sweep-other-0123456789")
        replace(record, run=str(tmp_path / "elsewhere")).write(other)
        here = f"{shared.directory.name}/{record.id}"
        with pytest.raises(UserError, match="2 sweeps have it, each with a model of its own; give one of sweep-other"):
            keep(record.id, "x", tmp_path / "runs", QUIET)
        keep(here, "x", tmp_path / "runs", QUIET)
        assert (tmp_path / "runs" / "models" / "x" / "model" / "config.json").exists()
        replace(record, status="stopped").write(other)
        assert find_trial(tmp_path / "runs", record.id) == record
        record.write(other)  # another sweep over the same point found the same model
        assert find_trial(tmp_path / "runs", record.id) == record

    def test_what_cannot_be_promoted(self, shared: Shared, tmp_path: Path) -> None:
        runs, quiet = tmp_path / "runs", QUIET
        with pytest.raises(UserError, match=r"nothing: no sweep in .* has such a trial"):
            keep("nothing", None, runs, quiet)
        TrialRecord("ab-s0", "ga", {}, 0, "failed", cause="NaN").write(shared.directory)
        TrialRecord("ab-s1", "ga", {}, 1, "done", run=str(tmp_path / "gone")).write(shared.directory)
        with pytest.raises(UserError, match="ab-s0: is failed: NaN, and has no finished model"):
            keep("ab-s0", None, runs, quiet)
        with pytest.raises(UserError, match="ab: 2 trials begin so: ab-s0, ab-s1; give one of them"):
            keep("ab", None, runs, quiet)
        with pytest.raises(UserError, match="has no model any more"):
            keep("ab-s1", None, runs, quiet)


def test_other_figures_are_not_taken_for_those_of_the_front(shared: Shared) -> None:
    """The same trial, evaluation and utility, and another figure of forgetting: mixed models are looked at anew."""
    run(shared)
    result = Result.of(shared.config, shared.directory, shared.target.source, (0.1, 0.0))  # any utility is enough
    (found,) = calibrate(result, shared, QUIET)
    assert (found.share, found.forget) == (1.0, only(shared).forget)
    objectives = Objectives(forget="tofu_model_utility")
    other = replace(shared, config=shared.config.model_copy(update={"objectives": objectives}))
    records = tuple(replace(record, forget=0.123) for record in result.records)
    changed = replace(result, config=other.config, records=records, ranked=tuple(rank(records, 1)))
    assert [each.forget for each in calibrate(changed, other, QUIET)] == [0.123]


def test_a_sweep_that_runs_already_is_not_run_beside_it(config: SweepRun) -> None:
    opened = open_sweep(config, config.data.load())
    with opened.locked(), pytest.raises(UserError, match="another process is writing this run"):
        Sweep(config).perform(QUIET)


def test_data_that_a_method_cannot_use_is_told_before_anything_runs(config: SweepRun, tmp_path: Path) -> None:
    data = config.data.model_copy(update={"retain": None})
    with pytest.raises(UserError, match=r"NPO\+GD needs a retain set and the data has none"):
        Sweep(config.model_copy(update={"data": data})).perform(QUIET)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written(config: SweepRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"runs: .*cannot be written"):
        share(config.model_copy(update={"runs": str(tmp_path / "file")}))


def test_changed_data_is_another_sweep(config: SweepRun, tmp_path: Path) -> None:
    first = share(config).directory
    shutil.copy(tmp_path / "forget.jsonl", tmp_path / "kept.jsonl")
    write_rows(tmp_path / "forget.jsonl", FORGET[:-1])
    assert share(config).directory != first


def test_a_trial_that_is_killed_for_memory_does_not_end_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray Tune's own manager of actors, which raises for every error that it takes for none of an actor."""
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    told: list[Exception] = []
    actor = SimpleNamespace(_on_error=lambda actor, error: told.append(error), actor_id=1)
    task = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    monkeypatch.setattr(RayActorManager, "_cleanup_actor", lambda self, tracked_actor: None)
    manager = RayActorManager.__new__(RayActorManager)
    manager._failed_actor_ids = set()
    error = OutOfMemoryError("1 worker(s) were killed\nOOM kill reason: Memory usage 24B exceeded 23B\nmore")
    with pytest.raises(RuntimeError, match="Caught unexpected exception"):
        manager._actor_task_failed(task, error)
    with killed_for_memory_is_dead():
        manager._actor_task_failed(tracked_actor_task=task, exception=error)
    (death,) = told
    assert isinstance(death, RayActorError)
    assert "killed, the node's memory was full: OOM kill reason: Memory usage 24B exceeded" in str(death)
