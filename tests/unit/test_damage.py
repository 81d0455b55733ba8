"""A file of a run that a disk has damaged: the same command tells of it, makes what it was part of again, and ends with
what an undisturbed run ends with, bit for bit."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_line import run_here
from damage import WAYS, delete, flip
from measured import record
from obliviate import storage
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus, EvaluationSet, Role
from obliviate.digests import DIGESTS, list_folder
from obliviate.errors import UserError
from obliviate.models import content_of
from obliviate.runs import DONE_FILE, Run
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate.train.here import alone
from obliviate.train.job import CHECKPOINTS, Job, Reporter
from obliviate.train.log import STEPS_FILE
from obliviate.train.produce import train_and_write
from obliviate_eval.records import read_records, records_file, write_records
from obliviate_eval.robustness import ModelFigures
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites.base import Suite
from obliviate_recipes.attacks.watching import Watched
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.named import named_model
from obliviate_recipes.reporting import model_report, write
from obliviate_recipes.stage import MODEL, Stage, perform
from obliviate_recipes.stages.card import CARD, Attacked, add_attacks, write_card
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.measure import ANSWERS, Measuring
from obliviate_recipes.verify import verify
from recipes import Told
from training import FORGET, RETAIN

SPEC = EvaluationSpec(
    suite="opt_out", engine=EngineSpec(type="hf", dtype="float32"), generation=GenerationSpec(max_new_tokens=4),
    encoder=None, nli=None, fluency=None, resamples=100,
)  # fmt: skip
CORPUS = Corpus(FORGET[:4], RETAIN[:4], (EvaluationSet("forget", Role.FORGET, FORGET[:2]),))


def train_here(job: Job, folder: Path, on_step: Reporter) -> None:
    with alone() as device:
        train_and_write(job, folder, on_step, device=device)


def planned(tiny: Path, runs: Path) -> list[Stage]:
    """A training, the records of its model, and their figures."""
    values = {
        "model": {"source": str(tiny), "compute_dtype": "float32", "max_length": 64}, "data": {"type": "fictitious"},
        "method": "ga+gd", "runs": str(runs), "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 4},
    }  # fmt: skip
    training = unlearning_stage(build(UnlearnRun, values, where="test"), CORPUS, train=train_here)
    measuring = Measuring(CORPUS, SPEC, None, str(runs), within=True)
    figures = measuring.figures("tiny", training.model, needs=(training,))
    return [training, figures.records, figures]


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of all runs, and a copy of it."""
    place = tmp_path_factory.mktemp("undisturbed")
    perform(planned(tiny, place / "runs"), QUIET)
    shutil.copytree(place / "runs", place / "copy")
    return place / "runs", place / "copy"


class World:
    def __init__(self, tiny: Path, runs: Path, copy: Path) -> None:
        self.tiny, self.runs, self.copy = tiny, runs, copy

    def file(self, name: str) -> Path:
        """By the kind of the run that it is in: `unlearn/done.json`."""
        kind, _, rest = name.partition("/")
        (run,) = self.runs.glob(f"{kind}-*")
        return run / rest

    def again(self, events: Events = QUIET) -> None:
        """The same command."""
        perform(planned(self.tiny, self.runs), events)

    @property
    def results(self) -> dict[str, bytes]:
        return results(self.runs)


def results(runs: Path) -> dict[str, bytes]:
    """Of all files but logs, and what says when they were made."""
    named = {path.relative_to(runs).as_posix(): path for path in sorted(runs.rglob("*")) if path.is_file()}
    kinds = (".safetensors", "records.parquet", "metrics.json", "tasks.json", "export.json", "model/config.json")
    return {name: path.read_bytes() for name, path in named.items() if name.endswith(kinds)}


@pytest.fixture
def world(tiny: Path, undisturbed: tuple[Path, Path]) -> Iterator[World]:
    runs, copy = undisturbed
    yield World(tiny, runs, copy)
    shutil.rmtree(runs)
    shutil.copytree(copy, runs)


def test_what_is_undamaged_is_done_already(world: World) -> None:
    told = Told()
    world.again(told)
    assert [line.partition(": ")[2].partition(",")[0] for line in told.text.splitlines()] == ["done already"] * 3
    for kind, count in (("unlearn", 9), ("records", 3), ("evaluate", 3)):
        listed = Run(world.file(f"{kind}/"), "").files
        assert len(listed) == count, sorted(listed)
    assert len(results(world.runs)) == len(results(world.copy)) == 7


SMALL = (
    "unlearn/run.json", "unlearn/done.json", "unlearn/export.json", "records/run.json", "records/done.json",
    "records/records.parquet", "records/tasks.json", "evaluate/run.json", "evaluate/done.json",
    "evaluate/records.parquet", "evaluate/metrics.json",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SMALL)
def test_a_small_file(world: World, name: str, way: Callable[[Path], None]) -> None:
    """Every byte of it is looked at whenever its run is found."""
    way(world.file(name))
    told = Told()
    world.again(told)
    if (name, way) not in ((each, delete) for each in SMALL if each.endswith("done.json")):  # without it none is told
        told_of = [line for line in told.text.splitlines() if f": {name.partition('/')[2]} " in line]
        assert len(told_of) == 1
        assert told_of[0].endswith(": the run is made again")
    assert world.results == results(world.copy)
    assert verify([world.runs], QUIET)


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_models_file(world: World, name: str, way: Callable[[Path], None]) -> None:
    """Of these, the sizes."""
    way(world.file(f"unlearn/model/{name}"))
    with pytest.raises(UserError, match=rf"model/{name} (is missing|has \d+ of \d+ bytes); run the command that made"):
        named_model(str(world.file("unlearn/")), world.runs)
    told = Told()
    world.again(told)
    assert f"model/{name} " in told.text.splitlines()[0]
    assert world.results == results(world.copy)


def test_a_flipped_bit_in_a_model_is_found_when_it_is_read(world: World) -> None:
    """By the stage that measures it, and by `verify`; not where all is done that is made of it."""
    flip(world.file("unlearn/model/model.safetensors"))
    told = Told()
    world.again(told)
    assert "done already" in told.text.splitlines()[0]
    assert not verify([world.runs], told)
    delete(world.file("records/records.parquet"))
    world.again(told)
    assert told.text.count("model/model.safetensors is not as it was written: the run is made again") == 1
    assert world.results == results(world.copy)


def test_a_model_that_none_of_ours_makes_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.file("unlearn/model"), tmp_path / "kept")
    flip(tmp_path / "kept" / "model.safetensors")
    stages = planned(tmp_path / "kept", tmp_path / "runs")
    with pytest.raises(UserError, match=r"kept/model.safetensors: is not as it was written; restore it"):
        perform(stages, QUIET)


def test_a_list_of_its_files_changes_no_models_hash(tiny: Path, tmp_path: Path) -> None:
    """Runs on copies that were made before are found."""
    folder = shutil.copytree(tiny, tmp_path / "copy")
    before = content_of(ModelSpec(source=str(folder)))
    list_folder(folder)
    assert (folder / DIGESTS).exists()
    assert content_of(ModelSpec(source=str(folder))) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_log_is_lost_and_the_report_says_so(world: World, tmp_path: Path, way: Callable[[Path], None]) -> None:
    way(world.file(f"unlearn/{STEPS_FILE}"))
    told = Told()
    world.again(told)
    assert f"{STEPS_FILE} " in told.text.splitlines()[0]
    assert told.text.splitlines()[0].endswith("nothing is made of a log, and what it lost is lost")
    assert told.text.count("done already") == 3
    report = model_report(world.file("evaluate/"))
    (mishap,) = report.mishaps
    assert mishap.startswith("its log ")
    assert "of 2 steps can be read" in mishap
    write("Two", [report], tmp_path / "report.html", told)
    assert mishap in (tmp_path / "report.html").read_text()
    assert not verify([world.runs], QUIET)


@pytest.mark.parametrize("way", WAYS[:3])
def test_figures_and_records_are_refused_where_they_are_but_read(world: World, way: Callable[[Path], None]) -> None:
    for name in ("records.parquet", "metrics.json"):
        way(world.file(f"evaluate/{name}"))
    with pytest.raises(UserError, match=r"records.parquet: (is not|has) .*; run the command that made it again"):
        read_records(world.file("evaluate/records.parquet"))
    shutil.copy(world.copy / world.file("evaluate/").name / "records.parquet", world.file("evaluate/"))
    with pytest.raises(UserError, match=r"metrics.json: (is not|has) .*; run the command that made it again"):
        model_report(world.file("evaluate/"))


def test_a_run_that_was_made_before_files_were_listed_is_found(world: World) -> None:
    for kind in ("unlearn", "records", "evaluate"):
        world.file(f"{kind}/{DONE_FILE}").write_text('{"model": "model", "steps": 2}')
    told = Told()
    world.again(told)
    assert told.text.count("done already") == 3
    assert verify([world.file("unlearn/")], told)
    assert told.text.splitlines()[-1] == "0 whole, 0 damaged, 1 without a list"
    assert "it was made before files were listed" in told.text


def test_what_a_process_leaves_that_dies_before_it_has_cleaned_up(world: World) -> None:
    left = (f"unlearn/{CHECKPOINTS}/step_000002/meta.json", f"records/{ANSWERS}/a.json")
    for name in left:
        world.file(name).parent.mkdir(parents=True)
        world.file(name).write_text("{}")
    world.again()
    assert not any(world.file(name).parents[0].exists() for name in left)
    assert not world.file(f"unlearn/{CHECKPOINTS}").exists()
    assert world.results == results(world.copy)


def test_a_folder_that_is_removed_on_purpose_is_not_missed(world: World) -> None:
    run = Run(world.file("unlearn/"), "")
    before = run.summary
    run.drop(MODEL)
    assert run.done
    assert (run.summary, sorted(run.files)) == (before, ["export.json", "run.json", STEPS_FILE])
    assert not (run.directory / MODEL).exists()


def test_what_a_process_leaves_that_dies_while_it_writes(world: World) -> None:
    world.file("unlearn/done.json").unlink()
    half = [world.file(f"unlearn/.model.0.{end}") for end in ("tmp", "old")]
    for each in half:
        each.mkdir()
    (file := world.file("unlearn/.run.json.0.tmp")).write_text("{")
    world.again()
    assert not any(each.exists() for each in (*half, file))


@pytest.mark.parametrize("way", WAYS)
def test_records_on_the_way_of_a_training_that_was_cut_off(tmp_path: Path, way: Callable[[Path], None]) -> None:
    """A damaged one is measured again."""
    none = Suite("none", "None", ())
    watched = Watched((0, 5), str(tmp_path), ModelSpec(source="m"), (), none, GenerationSpec(max_new_tokens=4), 64)
    for step in watched.steps:
        write_records(tmp_path / records_file(step), [record(index=index) for index in range(50)])
    assert watched.done
    way(tmp_path / records_file(5))
    assert not watched.done


def test_a_judges_reply_that_is_cut_off_is_asked_for_again(world: World) -> None:
    (reply := world.runs / "judged" / "a.json").parent.mkdir()
    (whole := reply.with_name("b.json")).write_text('{"reply": "yes"}')
    reply.write_text('{"rep')
    _ = Measuring(CORPUS, SPEC, None, str(world.runs)).judges
    assert (reply.exists(), whole.exists()) == (False, True)


@pytest.mark.parametrize("name", ["measured.json", "attacked.json"])
@pytest.mark.parametrize("way", WAYS[:3])
def test_what_a_card_was_told_may_be_lost(world: World, name: str, way: Callable[[Path], None]) -> None:
    """A card is written without it, and the run is whole."""
    run = Run(world.file("unlearn/"), "")
    figures = ModelFigures({}, *[None] * 6)
    add_attacks(run, MODEL, Attacked(control="none", items=1, utility_drop=0.1, figures=figures))
    way(world.file(f"unlearn/{name}"))
    write_card(run, MODEL)
    card = (run.directory / MODEL / CARD).read_text()
    assert ("Not measured yet" in card) == (name == "measured.json")
    assert ("Not attacked yet" in card) == (name == "attacked.json")
    assert run.done


class TestVerify:
    def test_tells_of_every_file_in_a_line(self, world: World) -> None:
        told = Told()
        assert verify([world.runs], told)
        assert told.text == "3 whole, 0 damaged\n"
        flip(world.file("unlearn/model/model.safetensors"))
        delete(world.file("evaluate/metrics.json"))
        told = Told()
        assert not verify([world.runs], told)
        assert told.text.splitlines() == [
            f"warning: {world.file('evaluate/')}: metrics.json is missing",
            f"warning: {world.file('unlearn/')}: model/model.safetensors is not as it was written",
            "1 whole, 2 damaged: remove a damaged run, and the command that made it makes it again",
        ]
        assert verify([world.file("records/")], QUIET)

    def test_on_the_command_line(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli = run_here(monkeypatch, capsys)
        found = cli("verify", world.runs)
        assert (found.code, found.out) == (0, "3 whole, 0 damaged\n")
        flip(world.file("records/records.parquet"))
        found = cli("verify", world.file("records/"), world.file("unlearn/"))
        assert found.code == 1
        assert "records.parquet is not as it was written" in found.out + found.error

    def test_of_a_model_outside_of_runs(self, world: World, tmp_path: Path) -> None:
        shutil.copytree(world.file("unlearn/model"), tmp_path / "models" / "kept")
        assert verify([tmp_path], QUIET)
        delete(tmp_path / "models" / "kept" / "config.json")
        told = Told()
        assert not verify([tmp_path], told)
        assert told.text.startswith(f"warning: {tmp_path}/models/kept: config.json is missing\n")

    def test_of_an_unfinished_run(self, world: World) -> None:
        world.file("records/done.json").unlink()
        told = Told()
        assert verify([world.file("records/")], told)
        assert told.text.startswith(f"{world.file('records/')}: has no list of its files: it is not finished, its ")
        assert told.text.endswith("\n0 whole, 0 damaged, 1 without a list\n")

    def test_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no run in it; give folders of runs, or the one that they are in"):
            verify([tmp_path], QUIET)

    def test_in_a_store(self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """From another node, which keeps nothing of the model."""
        shutil.copytree(world.runs, tmp_path / "bucket")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
        (run,) = (tmp_path / "bucket").glob("unlearn-*")
        (run / "model" / storage.MARK).write_text('{"whole": true, "id": "1"}')
        bucket = Path(f"file://{tmp_path}/bucket")
        assert verify([bucket], QUIET)
        assert not list((tmp_path / "node").rglob("model.safetensors"))
        storage.fetch(storage.local(f"{bucket}/{run.name}/model"))  # a copy here says nothing of what is there
        flip(run / MODEL / "model.safetensors")
        told = Told()
        assert not verify([bucket], told)
        assert "model/model.safetensors is not as it was written" in told.text


def test_a_damaged_model_in_a_store_is_told_when_it_is_fetched(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.file("unlearn/model"), tmp_path / "bucket" / "model")
    (tmp_path / "bucket" / "model" / storage.MARK).write_text('{"whole": true, "id": "1"}')
    flip(tmp_path / "bucket" / "model" / "model.safetensors")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    path = storage.local(f"file://{tmp_path}/bucket/model")
    with pytest.raises(UserError, match=r"bucket/model: .*model.safetensors is not as it was written; remove this "):
        storage.fetch(path)
    assert not path.exists()


def test_a_run_in_a_store_takes_no_more_round_trips_to_be_found(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One listing of its folder; what has come once is here."""
    shutil.copytree(world.runs, tmp_path / "bucket")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    (folder,) = (tmp_path / "bucket").glob("evaluate-*")
    (label, content), record = ("tiny", folder.name.rpartition("-")[2]), json.loads((folder / "run.json").read_text())
    listed: list[str] = []
    real = storage._list
    monkeypatch.setattr(storage, "_list", lambda files, key: listed.append(key) or real(files, key))
    monkeypatch.setattr("obliviate.runs.content_hash", lambda value: record["content"])
    run = Run.at(Path(f"file://{tmp_path}/bucket"), "evaluate", label, {}, {})
    assert run.directory.name == f"evaluate-{label}-{content}"
    assert run.done
    assert len(listed) == 1
    flip(run.directory / "metrics.json")
    assert not Run.at(Path(f"file://{tmp_path}/bucket"), "evaluate", label, {}, {}).done
