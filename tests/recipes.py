"""Recipes and stages as tests run them: what they make, and what they tell."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from obliviate import storage
from obliviate.config import FinetuneRun, UnlearnRun
from obliviate.data.rows import Corpus
from obliviate.schema import ModelSpec
from obliviate_cli.console import Terminal
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.fuse import Fuse, FuseRun
from obliviate_recipes.stage import Stage, perform
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.judged import JUDGED
from obliviate_recipes.stages.measure import Figures, Measuring
from obliviate_recipes.stages.unlearning import Unlearn
from obliviate_recipes.train import FinetuneRecipe, UnlearnRecipe


class Told(Terminal):
    """Keeps what is told, as a log would have it."""

    def __init__(self, width: int = 300) -> None:
        self.out = StringIO()
        super().__init__(Console(file=self.out, width=width, soft_wrap=True, markup=False, emoji=False))

    @property
    def text(self) -> str:
        return self.out.getvalue()


def unlearned(config: UnlearnRun, corpus: Corpus | None = None, events: Events = QUIET) -> Path:
    """The model's folder; on this corpus, or on the config's data."""
    if corpus is None:
        return storage.local(UnlearnRecipe(config).perform(events).source)
    stage = unlearning_stage(config, corpus)
    perform([stage], events)
    return stage.folder


def finetuned(config: FinetuneRun) -> Path:
    return storage.local(FinetuneRecipe(config).perform(QUIET).source)


def fused(config: FuseRun, events: Events = QUIET) -> Path:
    return storage.local(Fuse(config).perform(events).source)


def made(stage: Stage, events: Events = QUIET) -> Path:
    """The folder of the stage's run, once it is done."""
    perform([stage], events)
    return stage.run.directory


def measured(
    measuring: Measuring, name: str, model: ModelSpec, retain: Figures | None = None, events: Events = QUIET
) -> Path:
    """The folder of the figures."""
    return made(measuring.figures(name, model, retain), events)


def with_filter(config: UnlearnRun, corpus: Corpus, events: Events = QUIET) -> tuple[Corpus, Path | None]:
    """What the filter leaves, and the file that reports every row."""
    stage = unlearning_stage(config, corpus)
    assert isinstance(stage, Unlearn)
    if stage.filter is None:
        return corpus, None
    path = made(stage.filter, events) / JUDGED
    return stage.filter.applied(corpus, events), path


def with_alternatives(config: UnlearnRun, corpus: Corpus, events: Events = QUIET) -> Corpus:
    """With other answers in every forget row, where the method needs them."""
    stage = unlearning_stage(config, corpus)
    assert isinstance(stage, Unlearn)
    if stage.alternatives is None:
        return corpus
    made(stage.alternatives, events)
    return stage.alternatives.applied(corpus, events)
