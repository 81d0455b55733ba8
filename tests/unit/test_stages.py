"""Which changes of a config train again, and what a run records of it, without training anything."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import requests_world
from modules import loaded_by
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Row, write_rows
from obliviate.errors import UserError
from obliviate.runs import Run, write_json
from obliviate.schema import ModelSpec
from obliviate.train import launch as trainer
from obliviate.train.job import Job
from obliviate_recipes.events import QUIET
from obliviate_recipes.requests.work import Recipes
from obliviate_recipes.stages import nearness
from obliviate_recipes.stages import training as stages
from obliviate_recipes.stages.alternatives import SAMPLES, Alternatives
from recipes import unlearned


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What would have been trained."""
    launched: list[Job] = []

    def launch(job: Job, cluster: Any, folder: Path, on_step: Any) -> None:
        folder.mkdir(parents=True)
        launched.append(job)

    monkeypatch.setattr(trainer, "launch", launch)
    return launched


def unlearn(tiny: Path, runs: Path, *overrides: str) -> Path:
    """The run's folder."""
    values = {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {"type": "fictitious", "people": 6},
        "method": "npo+gd",
        "runs": str(runs),
    }
    return unlearned(build(UnlearnRun, values, overrides, where="test")).parent


def test_what_is_measured_trains_nothing_again(tiny: Path, tmp_path: Path, jobs: list[Job]) -> None:
    first = unlearn(tiny, tmp_path)
    assert unlearn(tiny, tmp_path, "data.eval_retain_limit=3") == first
    assert unlearn(tiny, tmp_path, "cluster.workers=2", "optim.micro_batch_size=1") == first
    assert unlearn(tiny, tmp_path, "alternatives.samples=3") == first  # nothing is sampled for NPO
    assert len(jobs) == 1


def test_a_finished_run_is_found_before_its_texts_are_cut_into_tokens(
    tiny: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[int] = []
    monkeypatch.setattr(stages, "text_warnings", lambda model, rows: cut.append(len(rows)) or [])  # type: ignore[func-returns-value]
    unlearn(tiny, tmp_path)
    unlearn(tiny, tmp_path)
    assert cut == [len(jobs[0].forget) + len(jobs[0].retain)]


def test_of_many_texts_some_are_looked_at(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second of 40: the ten of them that are cut stand for twenty."""
    monkeypatch.setattr(stages, "LOOKED_AT", 20)
    rows = [Row("Who?", "me " * (100 if place % 4 < 2 else 1)) for place in range(40)]
    (warning,) = stages.text_warnings(ModelSpec(source=str(tiny), max_length=32), rows)
    assert warning.startswith("about 50.0% of 40 training texts are cut at 32 tokens: ")


def test_dropout_depends_on_how_many_micro_batches_there_are(
    tiny: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 items: eight micro-batches of four on one worker or two, sixteen of two; without dropout all are one run."""
    cuts = [("cluster.workers=1",), ("cluster.workers=2",), ("optim.micro_batch_size=2",)]
    one, two, other = (unlearn(tiny, tmp_path, "model.lora.dropout=0.1", *cut) for cut in cuts)
    assert one == two != other
    assert len({unlearn(tiny, tmp_path, "model.lora.dropout=0", *cut) for cut in cuts}) == 1
    monkeypatch.setattr(nearness, "sentence_encoder", lambda source: None)
    # Steps that lose items, and an attack's own, are cut otherwise on two.
    for keys in (["early_drop.bleu=0.2"], ["tampering.steps=4", "optim.batch_size=16"]):
        assert len({unlearn(tiny, tmp_path, "model.lora.dropout=0.1", *keys, *cut) for cut in cuts}) == 3
    one, two, other = (unlearn(tiny, tmp_path, "model.dropout=true", *cut) for cut in cuts)
    assert one == two != other


def test_whp_learns_the_forget_set_once_more_and_only_once(
    tiny: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(job: Job, cluster: Any, folder: Path, on_step: Any) -> None:
        shutil.copytree(tiny, folder)
        jobs.append(job)

    monkeypatch.setattr(trainer, "launch", launch)
    first = unlearn(tiny, tmp_path, "method=whp+gd", "model.lora={rank: 4, merge: false}")
    reinforcing, training = jobs
    assert (reinforcing.retain, reinforcing.forget) == (training.forget, ())
    assert reinforcing.optim.epochs == 3
    assert reinforcing.model.lora is not None
    assert reinforcing.model.lora.merge  # whoever compares with it reads whole weights
    assert training.reinforced is not None
    assert Path(training.reinforced.source) == reinforcing.directory / "model"
    assert training.reinforced.lora is None
    assert "the forget set alone" in (reinforcing.directory / "model" / "README.md").read_text()
    again = unlearn(tiny, tmp_path, "method={type: whp, alpha: 2}", "model.lora={rank: 4, merge: false}")
    assert again != first
    assert len(jobs) == 3


def test_a_reference_of_another_vocabulary_is_refused(tiny: Path, tmp_path: Path, jobs: list[Job]) -> None:
    other = shutil.copytree(tiny, tmp_path / "other")
    text = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**text, "vocab_size": text["vocab_size"] + 8}))
    size = text["vocab_size"]
    with pytest.raises(
        UserError, match=rf"reference\.source: .*other: has a vocabulary of {size + 8} .* one of {size};"
    ):
        unlearn(tiny, tmp_path / "runs", f"reference.source={other}")
    unlearn(tiny, tmp_path / "runs", f"reference.source={tiny}")
    assert len(jobs) == 1


@pytest.mark.parametrize(
    "key", ["chat_template=plain", "system_prompt=Hi", "max_length=128", "lora.rank=2",
            "guardrail={type: prompt, targets: [Ada]}"],
)  # fmt: skip
def test_what_a_reference_would_ignore_is_refused(tiny: Path, tmp_path: Path, jobs: list[Job], key: str) -> None:
    with pytest.raises(UserError, match=rf"reference\.{key.partition('=')[0].partition('.')[0]}: has no effect"):
        unlearn(tiny, tmp_path, f"reference.source={tiny}", f"reference.{key}")
    if not key.startswith("guardrail"):  # which no model under training has
        unlearn(tiny, tmp_path, f"reference.source={tiny}", f"reference.{key}", f"model.{key}")


@pytest.mark.parametrize("change", ["data.people=7", "data.seed=1", "method.beta=0.2", "seed=1", "optim.epochs=6"])
def test_what_is_trained_on_and_how_does(tiny: Path, tmp_path: Path, jobs: list[Job], change: str) -> None:
    assert unlearn(tiny, tmp_path) != unlearn(tiny, tmp_path, change)
    assert len(jobs) == 2


def test_the_run_records_the_whole_config(tiny: Path, tmp_path: Path, jobs: list[Job]) -> None:
    run = unlearn(tiny, tmp_path, "data.eval_retain_limit=3", "cluster.workers=2")
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["data"]["eval_retain_limit"] == 3
    assert config["cluster"]["workers"] == 2
    assert build(UnlearnRun, config, where="recorded").method.type == "npo"


def test_altpo_trains_on_what_was_sampled(
    tiny: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(stage: Alternatives, run: Run, events: Any) -> dict[str, Any]:
        said = {place: [f"Answer {stage.config.seed}."] for place in stage.places}
        write_json(run.directory / SAMPLES / "000000.json", said)
        return {}

    monkeypatch.setattr(Alternatives, "make", make)
    runs = [unlearn(tiny, tmp_path, "method=altpo+gd", f"seed={seed}") for seed in (0, 1)]
    assert runs[0] != runs[1]
    assert [{row.alternatives for row in job.forget} for job in jobs] == [{("Answer 0.",)}, {("Answer 1.",)}]


def test_a_run_that_another_process_writes_is_left_alone(tiny: Path, tmp_path: Path, jobs: list[Job]) -> None:
    folder = unlearn(tiny, tmp_path)
    (folder / "done.json").unlink()
    with (
        Run(folder, "").locked(),
        pytest.raises(UserError, match=r"^/.*: another process is writing this run \(process "),
    ):
        unlearn(tiny, tmp_path)
    assert len(jobs) == 1


def test_a_batchs_model_says_how_it_was_made(tiny: Path, tmp_path: Path, jobs: list[Job]) -> None:
    """Also to a runner whose config has another method by now."""
    first = requests_world.config(tmp_path, "ledger.sqlite", model={"source": str(tiny), "max_length": 64})
    write_rows(tmp_path / "forget.jsonl", requests_world.ROWS[:2])
    write_rows(tmp_path / "retain.jsonl", requests_world.ROWS[2:])
    model = Recipes(first, QUIET).unlearn(str(tiny), tmp_path / "forget.jsonl", tmp_path / "retain.jsonl")
    other = requests_world.config(tmp_path, "ledger.sqlite", method="npo+gd", seed=3)
    made = Recipes(other, QUIET).recipe(model)
    assert (made.label, made.seed, made.model.source) == ("ME+GD", 0, str(tiny))


def test_a_job_is_passed_on_without_what_trains() -> None:
    """As Ray Train's controller does, for which the workers wait."""
    heavy = ("transformers", "torch.distributed.fsdp", "torch.distributed.checkpoint")
    assert loaded_by("obliviate.train.worker", heavy) == []
