"""Teaching a model the data."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from obliviate.config import FinetuneRun
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.methods import GD, Pass
from obliviate.runs import Run
from obliviate_recipes.costs.training import TrainingWork
from obliviate_recipes.costs.work import finetuning
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined
from obliviate_recipes.stages.training import Training


@dataclass(frozen=True)
class Finetune(Training):
    """Teaches a model the data."""

    kind: ClassVar = "finetune"
    config: FinetuneRun

    @property
    def label(self) -> str:
        return self.config.name or f"{self.config.data.type}-{self.config.train_on}"

    @property
    def title(self) -> str:
        return f"fine-tune on {self.config.train_on}"

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return rows_to_learn(self.config, self.corpus)

    def determined(self) -> Determined:
        return self._trained_on({}, {})

    def check(self) -> None:
        self._check_model(self.rows)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        job = self._job(run, terms=(GD(),), retain=self.rows, anchor=Pass.RETAIN)
        return self._launch(run, job, events)

    @property
    def steps(self) -> TrainingWork:
        return finetuning(self.config.optim, self.config.seed, self.rows, self.at_hand(self.config.model))

    def outline(self) -> list[str]:
        self.check()
        title = f"fine-tune on {len(self.rows)} rows ({self.config.train_on})"
        return self._outlined(title, self.rows)


def rows_to_learn(config: FinetuneRun, corpus: Corpus) -> tuple[Row, ...]:
    """Raises UserError where there are none."""
    of_forget = () if config.train_on == "retain" else corpus.forget
    rows = of_forget if config.train_on == "forget" else (*of_forget, *corpus.retain)
    if not rows:
        raise UserError("train_on: retain: the data has no retain set; give data.retain, or train_on: all")
    return rows
