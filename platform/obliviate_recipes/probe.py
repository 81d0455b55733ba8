"""`obliviate probe-knowledge`: which questions does a model really answer?

A question is known where what the model says, greedily, entails the golden answer (or, where a row has none, the
answer). Forgetting is then measured on what was known: a fact that the model never had is no fact that it forgot.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from rich.text import Text

from obliviate import storage
from obliviate.console_table import ConsoleTable
from obliviate.data import DataSpec
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate.tracking import Tracked
from obliviate_eval.metrics import Entailment
from obliviate_eval.records import RECORDS_FILE, Record, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import OfData
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.data_files import handed_over, write_data
from obliviate_recipes.stages.measure import Figures, Measuring

NO_ENTITY = "(no entity)"
Asked = tuple[str, str]  # question, true answer


class ProbeRun(Tracked):
    """`obliviate probe-knowledge`: the rows of `data` that a model knows, as `data` for other runs."""

    model: ModelSpec
    data: DataSpec
    answers: Literal["given", "generated"] = "given"  # of the rows that are written: as in the data, or the model's own
    engine: EngineSpec = EngineSpec()
    generation: GenerationSpec = GenerationSpec()
    nli: str = "sileod/deberta-v3-base-tasksource-nli"  # judges whether what is said entails the golden answer
    address: str | None = None  # of the Ray cluster, as in cluster.address
    runs: str = "runs"

    @model_validator(mode="after")
    def _one_answer(self) -> "ProbeRun":
        if self.generation.samples != 1:
            raise ValueError(
                f"generation.samples: {self.generation.samples}: one answer to a question is judged; set 1"
            )
        return self


class Probe(OfData[ProbeRun, Path]):
    """Asks everything, and keeps what is known."""

    takes: ClassVar = ProbeRun

    @cached_property
    def stages(self) -> Sequence["Known"]:
        config = self.config
        asked = Corpus(self.corpus.forget, (), (EvaluationSet("questions", Role.RETAIN, _questions(self.corpus)),))
        # The suite whose NLI question is "does what is said entail the truth?" on every set.
        spec = EvaluationSpec(
            suite="closer_look_real_world", engine=config.engine, generation=config.generation, encoder=None,
            nli=config.nli,
        )  # fmt: skip
        answers = Measuring(asked, spec, config.address, config.runs).figures("knowledge", config.model)
        return [Known(config, self.corpus, answers)]

    def conclude(self, events: Events) -> Path:
        """The file that holds the known rows as `data`."""
        return handed_over(self.stages[0].run.directory, events)


@dataclass(frozen=True)
class Known(Stage):
    """The rows whose question the model answers."""

    kind: ClassVar = "probe"

    config: ProbeRun
    corpus: Corpus
    answers: Figures

    @property
    def label(self) -> str:
        return self.config.data.type

    @property
    def title(self) -> str:
        return f"keep what {self.config.model.source} answers of {len(_questions(self.corpus))} questions"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (self.answers,)

    def determined(self) -> Determined:
        corpus = self.corpus
        inputs = {"knowledge": self.answers.run.directory.name, "training": corpus.training_content,
                  "evaluation": corpus.evaluation_content}  # fmt: skip
        return Determined(self.config.model_dump(mode="json"), inputs)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        """Raises UserError where nothing of the forget set is known."""
        corpus, answers, said = self.corpus, self.config.answers, self._said()
        if not any(_asked(row) in said for row in corpus.forget):
            events.shown(_table(corpus, said))
            raise UserError(
                "data: the model answers no question of the forget set: there is nothing that it could forget"
            )
        sets = [replace(each, rows=tuple(known_rows(each.rows, said, answers))) for each in corpus.evaluation]
        forget, retain = (known_rows(rows, said, answers) for rows in (corpus.forget, corpus.retain))
        write_data(run.directory, forget, retain, sets)
        return {"forget": len(forget), "retain": len(retain)}

    def told(self, run: Run, events: Events) -> None:
        events.shown(_table(self.corpus, self._said()))

    def _said(self) -> dict[Asked, str]:
        return known_answers(read_records(storage.fetch(self.answers.run.directory / RECORDS_FILE)))


def known_answers(records: Sequence[Record]) -> dict[Asked, str]:
    """What the model says to the questions that it answers."""
    judge = Entailment()
    return {
        (each.question, each.reference): each.generation
        for each in records
        if each.generation is not None and judge.score(each) == 1
    }


def known_rows(rows: Sequence[Row], said: Mapping[Asked, str], answers: Literal["given", "generated"]) -> list[Row]:
    """The rows whose question is answered; with the model's own answer where that is asked for."""
    known = [row for row in rows if _asked(row) in said]
    if answers == "given":
        return known
    # The golden answer stays beside it: the next probe asks for the truth again.
    return [replace(row, answer=said[_asked(row)], golden_answer=row.golden_answer or row.answer) for row in known]


def _asked(row: Row) -> Asked:
    return row.question, row.fact


def _questions(corpus: Corpus) -> tuple[Row, ...]:
    """Each question once, with its true answer alone: nothing else needs to be scored.

    Raises UserError where there is none.
    """
    sets = (corpus.forget, corpus.retain, *(each.rows for each in corpus.evaluation))
    pairs = dict.fromkeys(_asked(row) for rows in sets for row in rows if row.question)
    if not pairs:
        raise UserError("data: has plain texts alone, which ask nothing; give rows with a question and an answer")
    return tuple(Row(question, truth) for question, truth in pairs)


def _table(corpus: Corpus, said: Mapping[Asked, str]) -> ConsoleTable:
    """How many questions about each entity are answered."""
    table = ConsoleTable("Set", "Entity", title="Known questions")
    for title in ("Known", "Asked"):
        table.add_column(title, justify="right")
    sets = {"forget": corpus.forget, "retain": corpus.retain}
    sets |= {f"measured {each.name}": each.rows for each in corpus.evaluation}
    for name, rows in sets.items():
        asked = Counter(row.entity or NO_ENTITY for row in rows)
        known = Counter(row.entity or NO_ENTITY for row in rows if _asked(row) in said)
        for entity, count in asked.items():
            table.add_row(name, Text(entity), str(known[entity]), str(count))
        table.add_row(name, Text("all", style="bold"), str(known.total()), str(asked.total()), end_section=True)
    return table
