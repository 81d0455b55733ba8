"""Forget sets that arrive one after another ("A Closer Look", arXiv:2410.08109, section 4.3, and its published code).

At step k the forget set is task k. The retain set is a fixed remainder and every task that is not forgotten yet: it
shrinks from step to step. What is measured stays the same: each task as a set of its own, and what is always kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from obliviate.data.base import Data
from obliviate.data.files import EvaluationFile, read_key
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap
from obliviate.data.source import reader
from obliviate.data.tofu import QUESTIONS, RETAIN_OF, TofuFiles, slice_of
from obliviate.errors import UserError
from obliviate.schema import Spec

CUT = "forget01"  # whose tasks TOFU as published has


@dataclass(frozen=True)
class Task:
    name: str
    forget: tuple[Row, ...]
    measured: EvaluationSet


@dataclass(frozen=True)
class TaskSequence:
    tasks: tuple[Task, ...]
    remainder: tuple[Row, ...]  # never to be forgotten
    kept: tuple[EvaluationSet, ...]

    def corpus(self, step: int) -> Corpus:
        """Of step 1, 2, ... Rows that an earlier task has forgotten are in no retain set any more.

        Raises UserError for a step that there is not.
        """
        if not 1 <= step <= len(self.tasks):
            raise UserError(f"data.step: {step}: there are {len(self.tasks)} tasks; count from 1")
        gone = [row for task in self.tasks[:step] for row in task.forget]
        left = [*self.remainder, *(row for task in self.tasks[step:] for row in task.forget)]
        retain, warnings = without_overlap(gone, left)
        evaluation = (*(task.measured for task in self.tasks), *self.kept)
        return Corpus(self.tasks[step - 1].forget, retain, evaluation, warnings)


class TofuTasks(TofuFiles):
    """TOFU in the cut for continual unlearning: a folder whose forget files have a `task_id`.

    forget01 has ten tasks of 40 rows, forget05 ten of 200, forget10 nine of 400. Tasks that are not asked for stay in
    the retain set, so that task 1 alone is TOFU's own forget set with its own retain set. The ten tasks of forget01 are
    made of TOFU as published too: its forget10 has their rows and false answers.
    """

    type: Literal["tofu_tasks"] = "tofu_tasks"
    tasks: tuple[str, ...] | None = None  # task ids in the order of the requests; None: all, as the file has them

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_ids(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(values.get("tasks"), list | tuple):
            return {**values, "tasks": [str(each) for each in values["tasks"]]}
        return values

    def load_tasks(self) -> TaskSequence:
        """Raises UserError where there are no tasks, for an unknown task, and for one that is asked for twice."""
        read = reader(self.source)
        rows, measured = read(self.split), read(f"{self.split}_perturbed")
        if all(row.task_id is None for row in rows):
            if self.split != CUT:
                raise UserError(
                    f"data.source: {self.source}: {self.split} has no task_id, and TOFU as published has false answers "
                    f"for forget10 alone, of which only the tasks of {CUT} can be made: set data.split={CUT}, or give "
                    "the folder data/tofu of github.com/sail-sg/closer-look-LLM-unlearning"
                )
            rows, measured = cut(read, ""), cut(read, "_perturbed")
        known = list(dict.fromkeys(row.task_id for row in rows if row.task_id is not None))
        asked = known if self.tasks is None else list(self.tasks)
        _check_tasks(asked, known)
        tasks = tuple(
            _task(each, [row for row in rows if row.task_id == each], [row for row in measured if row.task_id == each],
                  self.eval_forget_limit)
            for each in asked
        )  # fmt: skip
        remainder = (*read(RETAIN_OF[self.split][1]), *(row for row in rows if row.task_id not in asked))
        kept = read("retain_perturbed")[: self.eval_retain_limit]
        if self.retain_limit is not None:
            kept = kept[: self.retain_limit]
            remainder = slice_of(remainder, kept, self.retain_limit, self.seed)
        sets = (
            EvaluationSet("retain", Role.RETAIN, kept),
            EvaluationSet("real_authors", Role.REAL_AUTHORS, read("real_authors_perturbed")[: self.eval_real_limit]),
            EvaluationSet("world_facts", Role.WORLD_FACTS, read("world_facts_perturbed")[: self.eval_real_limit]),
        )
        return TaskSequence(tasks, remainder, sets)


def cut(read: Callable[[str], tuple[Row, ...]], kind: str) -> tuple[Row, ...]:
    """The rows of forget01's tasks, made of TOFU as published: forget01, then what forget05 has more than it, then what
    forget10 has more, two authors a task. So are the files of the cut, row by row."""
    found: dict[tuple[str, ...], Row] = {}
    for split in RETAIN_OF:  # each is part of the next
        found |= {row.key: row for row in read(f"{split}{kind}") if row.key not in found}
    return tuple(replace(row, task_id=str(place // (2 * QUESTIONS) + 1)) for place, row in enumerate(found.values()))


class FilesTasks(Spec):
    """Forget sets of the user's own, one file each, in their order; they are the tasks 1, 2, ..."""

    type: Literal["files_tasks"] = "files_tasks"
    forget: tuple[str, ...] = Field(min_length=1)
    retain: str | None = None  # what is never forgotten; methods with a retain term need one at the last task
    # Of what is kept; None: the retain rows
    evaluation: dict[str, EvaluationFile] | None = Field(default=None, min_length=1)
    eval_limit: int | None = Field(default=300, ge=1)  # rows measured of each task and set, from its beginning

    @model_validator(mode="after")
    def _kept_sets(self) -> "FilesTasks":
        for name, file in (self.evaluation or {}).items():
            if file.role is Role.FORGET:
                raise ValueError(f"evaluation.{name}.role: is forget; the tasks are measured anyway, name what is kept")
        return self

    def load_tasks(self) -> TaskSequence:
        """Raises UserError for a file that is missing, empty or unreadable."""
        tasks = tuple(
            _task(str(number), rows := read_key(f"forget.{number - 1}", path), rows, self.eval_limit)
            for number, path in enumerate(self.forget, 1)
        )
        remainder = () if self.retain is None else read_key("retain", self.retain)
        if self.evaluation is None:
            sets = [EvaluationSet("retain", Role.RETAIN, remainder)] if remainder else []
        else:
            sets = [
                EvaluationSet(name, file.role, read_key(f"evaluation.{name}", file))
                for name, file in self.evaluation.items()
            ]
        kept = tuple(EvaluationSet(each.name, each.role, each.rows[: self.eval_limit]) for each in sets)
        return TaskSequence(tasks, remainder, kept)


AnyTasks = Annotated[TofuTasks | FilesTasks, Field(discriminator="type")]


class ContinualData(Data):
    """One step of a sequence: what `obliviate continual` gives to each of its runs."""

    type: Literal["continual"] = "continual"
    sequence: AnyTasks
    step: int = Field(default=1, ge=1)

    def load(self) -> Corpus:
        return self.sequence.load_tasks().corpus(self.step)


def _task(name: str, rows: Iterable[Row], measured: Iterable[Row], limit: int | None) -> Task:
    return Task(name, tuple(rows), EvaluationSet(f"task_{name}", Role.FORGET, tuple(measured)[:limit]))


def _check_tasks(asked: list[str], known: list[str]) -> None:
    for each in asked:
        if each not in known:
            raise UserError(f"data.tasks: {each}: no such task; the file has {', '.join(known)}")
        if asked.count(each) > 1:
            raise UserError(f"data.tasks: {each}: is given twice; what is forgotten cannot be forgotten again")
