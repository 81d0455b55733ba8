"""Unlearn, noise, distil on outputs (UNDO; Lee et al. 2025, arXiv:2506.06278): after any unlearning, a shrunk and
noised copy of the unlearned model is taught its outputs again, on texts without what was forgotten."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from obliviate.config import FinetuneRun, UnlearnRun
from obliviate.data.rows import Row, content_of_rows, read_rows
from obliviate.errors import UserError, under
from obliviate.methods import KL, Pass
from obliviate.models import portable
from obliviate.runs import Run
from obliviate.schema import UndoSpec
from obliviate.train.job import Job
from obliviate_recipes.costs.training import TrainingWork
from obliviate_recipes.costs.work import finetuning
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, ModelStage, Stage
from obliviate_recipes.stages.training import LEFT_OUT, Training, facts_of


@dataclass(frozen=True)
class Distilled(Training):
    """`config` is the run's with `undo`, which has no part in `unlearned`, the stage that makes the teacher."""

    kind: ClassVar = "unlearn"

    config: UnlearnRun

    @property
    def spec(self) -> UndoSpec:
        assert self.config.undo is not None
        return self.config.undo

    @property
    def teacher(self) -> ModelStage:
        assert self.unlearned is not None
        return self.unlearned

    @property
    def label(self) -> str:
        return f"{self.teacher.label}-distilled"

    @property
    def title(self) -> str:
        return f"distil into a noised copy on {len(self.rows)} texts"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*self.teacher.needs, self.teacher)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Raises UserError where some are to be forgotten: they would be taught again."""
        if self.spec.texts == "retain":
            return self.corpus.retain
        with under("undo.texts"):
            rows = read_rows(self.spec.texts)
        forgotten = {row.key for row in self.corpus.forget}
        if shared := sum(row.key in forgotten for row in rows):
            raise UserError(f"undo.texts: {self.spec.texts}: {shared} of its rows are in the forget set; take them out")
        return rows

    @property
    def taught(self) -> FinetuneRun:
        """How the copy is trained."""
        shared = self.config.model_dump(include={"data", "cluster", "seed", "runs"})
        return FinetuneRun(**shared, model=self.teacher.model, optim=self.spec.optim, name=self.label)

    def determined(self) -> Determined:
        config = {"undo": self.spec.model_dump(mode="json", exclude={"texts": True, "optim": LEFT_OUT["optim"]}),
                  "seed": self.config.seed}  # fmt: skip
        inputs = {"texts": content_of_rows(self.rows), "unlearned": self.teacher.run.content}
        # A card tells of the whole run.
        return Determined(config, inputs, {"model": self.base}, self.config.model_dump(mode="json"))

    def check(self) -> None:
        self._check_model(self.rows)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        config = self.taught
        job = Job(
            model=portable(config.model),
            terms=(KL(),),
            forget=(),
            retain=self.rows,
            refusals=(),
            optim=config.optim,
            seed=config.seed,
            pairing="fresh",
            directory=run.directory,
            anchor=Pass.RETAIN,
            undo=self.spec,
            asked=facts_of(self.corpus.forget) if self.train is None else (),
        )
        return self._launch(run, job, events)

    @property
    def steps(self) -> TrainingWork:
        whole = self.config.model.model_copy(update={"lora": None})
        work = finetuning(self.spec.optim, self.config.seed, self.rows, self.at_hand(whole))
        seen = min(len(self.rows), work.steps * work.items)  # by the teacher, once
        return replace(work, scored=work.tokens - 1, reference_texts=seen)

    def outline(self) -> list[str]:
        self.check()
        title = f"distil into a copy that has lost {self.spec.share:.0%} of its weights, on {len(self.rows)} texts"
        return [self._planned(title)]
