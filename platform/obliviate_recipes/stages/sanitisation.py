"""After any unlearning: what the retain set sees of the change of the weights is taken out of it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np

from obliviate import storage
from obliviate.config import UnlearnRun
from obliviate.data.rows import Corpus, Row
from obliviate.models import load_to_read, skeleton
from obliviate.prune import measured_layers
from obliviate.runs import Run, content_hash, write_whole
from obliviate.schema import EngineSpec, ModelSpec, SanitisationSpec
from obliviate.train.log import STEPS_FILE
from obliviate_recipes.costs.work import Measured, Work, scoring
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage, Stage, original_weights
from obliviate_recipes.stages.card import write_card
from obliviate_recipes.stages.judged import JUDGED


@dataclass(frozen=True)
class Sanitised(ModelStage):
    """`config` is the run's with `sanitisation`, which has no part in `unlearned`, the stage that trains."""

    kind: ClassVar = "unlearn"
    waits: ClassVar = True  # another sweep may be at the same strength

    config: UnlearnRun
    corpus: Corpus
    unlearned: ModelStage

    @property
    def spec(self) -> SanitisationSpec:
        assert self.config.sanitisation is not None
        return self.config.sanitisation

    @property
    def base(self) -> ModelSpec:
        return self.config.model

    @property
    def label(self) -> str:
        return f"{self.unlearned.label}-sanitised"

    @property
    def title(self) -> str:
        return f"take out of the change what {len(self.rows)} retain texts see"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*self.unlearned.needs, self.unlearned)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        count = len(self.corpus.retain)
        chosen = np.random.default_rng([self.config.seed, count]).permutation(count)[: self.spec.texts]
        return tuple(self.corpus.retain[index] for index in chosen)

    def determined(self) -> Determined:
        texts = content_hash([row.saying(row.answer) for row in self.rows])
        inputs = {"texts": texts, "unlearned": self.unlearned.run.content}
        config = {"sanitisation": self.spec.model_dump(mode="json")}
        # A card tells of the whole run.
        return Determined(config, inputs, {"model": self.base}, self.config.model_dump(mode="json"))

    def check(self) -> None:
        from obliviate.sanitise import NOT_MEASURED

        measured_layers(skeleton(self.at_hand(self.base)), NOT_MEASURED)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate.sanitise import retained_directions, sanitise

        base = self.base.model_copy(update={"lora": None})
        model, encoder = load_to_read(base, base.compute_dtype)
        with events.progressing(self.title) as show:

            def texts() -> Iterator[tuple[int, ...]]:
                for done, row in enumerate(self.rows):
                    show(done, len(self.rows), "")
                    yield encoder.encode_row(row).input_ids

            retained = retained_directions(model, texts(), self.spec.energy)
        del model
        before = self.unlearned.run
        sanitise(
            original_weights(base, self.runs), storage.fetch(self.unlearned.folder), retained, self.spec.strength,
            self.folder,
        )  # fmt: skip
        for name in (STEPS_FILE, JUDGED):  # what training logged, and what it left out
            if (file := before.directory / name).exists():
                write_whole(run.directory / name, partial(shutil.copyfile, file))
        write_card(run, MODEL)
        return {"model": MODEL, "unlearned": before.directory.name, "steps": before.summary["steps"]}

    def work(self) -> tuple[Work, ...]:
        return (Measured(self.title, scoring(self.at_hand(self.base), self.rows, EngineSpec(type="hf"))),)
