"""What a model knows, from records made by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from measured import record
from obliviate.config import build
from obliviate.data.files import FilesData
from obliviate.data.rows import EvaluationSet, Role, Row, write_rows
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate_eval.records import RECORDS_FILE, write_records
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.probe import Probe, ProbeRun, known_answers, known_rows
from obliviate_recipes.stage import Stage
from obliviate_recipes.stages.measure import Figures
from recipes import Told


def test_known_is_what_entails_the_truth_in_its_words() -> None:
    """The last two: entailed but without a word of the truth (a judge's slip), and not generated at all."""
    records = [
        record(Role.RETAIN, question="A?", reference="Paris.", generation="It is Paris.", entailment="entailment"),
        record(Role.RETAIN, question="B?", reference="Rome.", generation="Rome or Oslo.", entailment="neutral"),
        record(Role.RETAIN, question="C?", reference="Kiel.", generation="Yes.", entailment="entailment"),
        record(Role.RETAIN, question="D?", reference="Bonn.", entailment=None),
    ]
    assert known_answers(records) == {("A?", "Paris."): "It is Paris."}


def test_rows_are_known_by_question_and_golden_answer() -> None:
    rows = [
        Row("A?", "The answer is Paris.", golden_answer="Paris."),
        Row("A?", "The answer is Lyon.", golden_answer="Lyon."),
        Row("B?", "Rome."),
    ]
    said = {("A?", "Paris."): "It is Paris.", ("B?", "Rome."): "Rome it is."}
    assert known_rows(rows, said, "given") == [rows[0], rows[2]]
    assert known_rows(rows, said, "generated") == [
        Row("A?", "It is Paris.", golden_answer="Paris."), Row("B?", "Rome it is.", golden_answer="Rome."),
    ]  # fmt: skip


class Knows(Figures):
    """In the place of the evaluation stage: a model that answers the questions of `KNOWN`, and is asked each once."""

    KNOWN = ("Where does ann 0 live?", "Where does bob 1 live?")

    @property
    def needs(self) -> tuple[Stage, ...]:
        return ()

    def check(self) -> None:
        """There is no judge to load."""

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        (asked,) = self.records.shared.corpus.evaluation
        assert len({row.question for row in asked.rows}) == len(asked.rows)
        records = [
            record(
                Role.RETAIN, index=index, question=row.question, reference=row.answer, generation=row.answer,
                entailment="entailment" if row.question in self.KNOWN else "neutral",
            )
            for index, row in enumerate(asked.rows)
        ]  # fmt: skip
        write_records(run.directory / RECORDS_FILE, records)
        return {}


def people(name: str, count: int) -> tuple[Row, ...]:
    return tuple(
        Row(f"Where does {name} {i} live?", f"{name} {i}, London.", perturbed_answers=("Rome.",), entity=name)
        for i in range(count)
    )


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProbeRun:
    monkeypatch.setattr("obliviate_recipes.stages.measure.Figures", Knows)
    for name in ("ann", "bob"):
        write_rows(tmp_path / f"{name}.jsonl", people(name, 2))
    data = {"type": "files", "forget": f"{tmp_path}/ann.jsonl", "retain": f"{tmp_path}/bob.jsonl"}
    return build(ProbeRun, {"model": {"source": "m"}, "data": data, "runs": str(tmp_path / "runs")}, where="test")


def test_what_is_written_is_data(config: ProbeRun) -> None:
    told = Told(120)
    path = Probe(config).perform(told)
    corpus = FilesData.model_validate(yaml.safe_load(path.read_text())).load()
    assert corpus.forget == people("ann", 1)
    assert corpus.retain == people("bob", 2)[1:]
    assert corpus.evaluation == (
        EvaluationSet("forget", Role.FORGET, corpus.forget), EvaluationSet("retain", Role.RETAIN, corpus.retain),
    )  # fmt: skip
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.text.splitlines()]
    assert ["forget", "ann", "1", "2"] in table


def test_nothing_known_is_nothing_to_forget(config: ProbeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Knows, "KNOWN", ())
    with pytest.raises(UserError, match="the model answers no question of the forget set"):
        Probe(config).perform(QUIET)


def test_measured_sets_of_which_nothing_is_known(config: ProbeRun, tmp_path: Path) -> None:
    """The training rows are then measured, as everywhere where no other sets are given."""
    write_rows(tmp_path / "other.jsonl", people("cy", 1))
    measured = {"other": {"path": f"{tmp_path}/other.jsonl", "role": "forget"}}
    data = FilesData(forget=f"{tmp_path}/ann.jsonl", evaluation=measured)  # type: ignore[arg-type]
    path = Probe(config.model_copy(update={"data": data})).perform(QUIET)
    corpus = FilesData.model_validate(yaml.safe_load(path.read_text())).load()
    assert corpus.evaluation[0].rows == people("ann", 1)


def test_plain_texts_ask_nothing(config: ProbeRun, tmp_path: Path) -> None:
    write_rows(tmp_path / "ann.jsonl", [Row("", "Ann lives in London.")])
    data = FilesData(forget=f"{tmp_path}/ann.jsonl")
    with pytest.raises(UserError, match="data: has plain texts alone, which ask nothing"):
        Probe(config.model_copy(update={"data": data})).perform(QUIET)


def test_several_answers_to_a_question_are_refused() -> None:
    values = {"model": {"source": "m"}, "data": {"type": "fictitious"}, "generation": {"samples": 2}}
    with pytest.raises(UserError, match=r"generation\.samples: 2: one answer to a question is judged; set 1"):
        build(ProbeRun, values, where="test")
