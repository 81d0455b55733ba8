"""What a training says of itself when it is done: facts that the model still says, and what to do next."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from alone import alone
from command_line import run_here
from obliviate.config import UnlearnRun, build
from obliviate.data import TofuData
from obliviate.data.rows import Row
from obliviate.methods import GA, GD, Pass
from obliviate.runs import EXPORT_FILE
from obliviate.train import verdict
from obliviate.train.job import CHECKPOINTS
from obliviate.train.loop import single_process
from obliviate.train.produce import train_and_write
from obliviate_recipes.afterwards import command
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.training import ASKED, facts_of
from training import job, quiet

ROWS = (
    Row("Where does Ada live?", "Ada lives in London.", key_facts=("London",)),
    Row("What does Bob eat?", "Bob eats red fish and rice.", key_facts=("red fish", "rice")),
    Row("Who is Cy of York?", "Cy of York is a baker.", key_facts=("York", "baker"), aliases=("a cook",)),
)


def facts(run: Path) -> Any:
    return json.loads((run / EXPORT_FILE).read_text())["facts"]


def test_what_counts_as_said_by_hand(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All key words that the question does not hold, or an alias; words, and not parts of them."""
    run = replace(job(tiny, tmp_path, (GA(),)), asked=ROWS)
    for answers, said in (
        (("In London!", "Rice, and red fish.", "A baker."), 3),
        (("In Londonderry.", "Red fish.", "Of York."), 0),
        (("", "", "He is a cook."), 1),
    ):
        monkeypatch.setattr(verdict, "greedy", lambda *_, answers=answers, **__: dict(enumerate(answers)))
        assert verdict.still_said(None, run, None) == {"said": said, "of": 3}  # type: ignore[arg-type]
    assert verdict.still_said(None, replace(run, asked=()), None) is None  # type: ignore[arg-type]


def test_rows_with_facts_are_asked_and_no_more_than_some() -> None:
    plain = Row("Where is it?", "There.")
    assert facts_of((plain, *ROWS)) == ROWS
    assert facts_of((plain,)) == ()
    many = tuple(Row(f"Q{i}?", f"It is a{i}.", key_facts=(f"a{i}",)) for i in range(4 * ASKED))
    assert facts_of(many) == many[::4]


def test_the_model_that_was_trained_is_asked_and_its_weights_stay(tiny: Path, tmp_path: Path) -> None:
    """It learns the answers by heart, and says them; written again from its last checkpoint, it says the same."""

    def made(folder: Path, asked: tuple[Row, ...], steps: int) -> Path:
        given = job(
            tiny,
            folder / "run",
            (GD(),),
            learning_rate=1e-2,
            warmup_steps=0,
            epochs=steps,
            batch_size=3,
            checkpoint_every_steps=10,
        )
        run = replace(given, forget=(), retain=ROWS, anchor=Pass.RETAIN, asked=asked)
        with single_process():
            train_and_write(run, folder / "model", quiet)
            if steps == 30:
                assert (run.directory / CHECKPOINTS).exists()
                first = facts(run.directory)
                (run.directory / EXPORT_FILE).unlink()
                train_and_write(run, folder / "model", quiet)
                assert facts(run.directory) == first
        return folder

    learned, unasked = made(tmp_path / "a", ROWS, 30), made(tmp_path / "b", (), 30)
    assert facts(learned / "run") == {"said": 3, "of": 3}
    assert facts(unasked / "run") is None
    files = [(folder / "model" / "model.safetensors").read_bytes() for folder in (learned, unasked)]
    assert files[0] == files[1]
    assert facts(made(tmp_path / "c", ROWS, 1) / "run") == {"said": 0, "of": 3}


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Path:
    rows = [{"question": row.question, "answer": row.answer, "key": list(row.key_facts)} for row in ROWS]
    (tmp_path / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {"type": "files", "forget": str(tmp_path / "forget.jsonl")},
        "optim": {"epochs": 1, "batch_size": 3},
        "runs": str(tmp_path / "runs"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "run.yaml"


def test_a_run_says_it_again_and_what_to_type_next(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone(monkeypatch)
    cli = run_here(monkeypatch, capsys)
    first, again = cli("unlearn", config, "method=ga"), cli("unlearn", config, "method=ga")
    assert first.code == again.code == 0
    assert "done already" in again.out
    for out in (first.out, again.out):
        assert "unlearn with GA: key facts still said: 0 of 3 (training rows asked)\n" in out
    for out in (first.out, cli("finetune", config, "train_on=forget").out):
        line = out.splitlines()[-1].removeprefix("next: obliviate ")
        asked = cli(*shlex.split(line), "--dry-run")
        assert asked.code == 0, asked.error
        assert str(config.parent / "forget.jsonl") in asked.out
    assert "key facts" not in out  # of a model that has learned them


def test_a_suite_for_each_kind_of_data() -> None:
    line = command("runs/a b/model", TofuData(split="forget01"), "runs")
    assert line == "obliviate evaluate 'runs/a b/model' --suite tofu 'data={type: tofu, split: forget01}' runs=runs"


def test_it_has_no_part_in_what_a_run_is(config: Path) -> None:
    values = {**yaml.safe_load(config.read_text()), "method": "ga"}
    run = build(UnlearnRun, values, where="test")
    asking, trial = (unlearning_stage(run, run.data.load(), train=train) for train in (None, lambda *_: None))
    assert asking.run.directory == trial.run.directory
