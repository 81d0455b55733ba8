"""Training by a method's terms."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from typing import Any, ClassVar

from obliviate import fit, plugins
from obliviate.config import UnlearnRun
from obliviate.data.refusals import load_refusals
from obliviate.data.rows import Corpus, Row, content_of_rows
from obliviate.data.world import load_world
from obliviate.errors import UserError
from obliviate.methods import compares, union_of_needs
from obliviate.models import portable, require_same_vocabulary, skeleton
from obliviate.rows_needed import check_rows
from obliviate.runs import Run, content_hash, write_whole
from obliviate.train.job import Job
from obliviate_recipes.costs.training import TrainingWork
from obliviate_recipes.costs.work import unlearning
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages import nearness
from obliviate_recipes.stages.alternatives import Alternatives
from obliviate_recipes.stages.dropping import write_dropped
from obliviate_recipes.stages.filtering import Filter
from obliviate_recipes.stages.finetuning import Finetune
from obliviate_recipes.stages.judged import JUDGED
from obliviate_recipes.stages.selecting import HeldOut
from obliviate_recipes.stages.training import Training, facts_of


@dataclass(frozen=True)
class Unlearn(Training):
    """Trains by the method's terms."""

    kind: ClassVar = "unlearn"
    config: UnlearnRun
    filter: Filter | None = None
    alternatives: Alternatives | None = None
    reinforced: Finetune | None = None

    @property
    def label(self) -> str:
        return self.config.name or f"{self.config.label}-{self.config.data.type}"

    @property
    def title(self) -> str:
        return f"unlearn with {self.config.label}"

    @property
    def needs(self) -> tuple[Stage, ...]:
        prepared = (self.reinforced, self.filter, self.alternatives)
        return (*self.before, *(each for each in prepared if each is not None))

    @property
    def gives_verdict(self) -> bool:
        """Whether the trained model is asked what it still says; of a sweep's trials, which are all measured, none."""
        return self.train is None

    @cached_property
    def held_out(self) -> HeldOut:
        return HeldOut.of(self.config, self.corpus)

    @cached_property
    def world(self) -> tuple[Row, ...]:
        return () if self.config.world is None else load_world(self.config.world)

    def determined(self) -> Determined:
        config = self.config
        found = {
            "held_out": self.held_out.content,
            "refusals": None if config.refusals is None else content_hash(load_refusals(config.refusals)),
            "world": content_of_rows(self.world) if self.world else None,
            "code": plugins.content(config.terms),
            "reinforced": None if self.reinforced is None else self.reinforced.weights,
            "filter": None if self.filter is None else self.filter.run.content,
            "alternatives": None if self.alternatives is None else self.alternatives.run.content,
        }
        models = {} if config.reference is None else {"reference": config.reference}
        return self._trained_on({name: content for name, content in found.items() if content is not None}, models)

    def check(self) -> None:
        config = self.config
        check_data(config, self.corpus)
        self._check_model((*self.corpus.forget, *self.corpus.retain, *self.held_out.rows))
        from obliviate.train.model import check_layers  # transformers: a config is read without it

        check_layers(config.terms, skeleton(self.at_hand(config.model)), config.latent)
        load_refusals(config.refusals)
        if config.reference is not None:
            reference = self.at_hand(config.reference)
            require_same_vocabulary(self.at_hand(config.model), reference)
            fit.check(reference)
        nearness.check(config, self.corpus)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        return self._launch(run, self.job(run, events), events)

    def job(self, run: Run, events: Events) -> Job:
        """What there is to train, once all that it needs is made."""
        config, corpus = self.config, self.corpus
        if self.filter is not None:
            corpus = self.filter.applied(corpus, events)
            check_data(config, corpus)  # of what the filter leaves
            judged = self.filter.run.directory / JUDGED
            write_whole(run.directory / JUDGED, partial(shutil.copyfile, judged))
        if self.alternatives is not None:
            corpus = self.alternatives.applied(corpus, events)
        corpus = replace(corpus, retain=self.held_out.retain)
        reinforced = None if self.reinforced is None else portable(self.reinforced.model)
        return self._job(
            run,
            terms=config.terms,
            forget=corpus.forget,
            retain=corpus.retain,
            refusals=load_refusals(config.refusals),
            pairing=config.pairing,
            world=self.world,
            neighbours=nearness.nearest_retain(config, corpus),
            drop=nearness.drop_rule(config),
            stop=config.stop,
            updates=config.updates,
            forget_learning_rate=config.forget_learning_rate,
            sharpness=config.sharpness,
            latent=config.latent,
            projection=config.projection,
            rectification=config.rectification,
            budget=self.held_out.budget,
            validation=self.held_out.validation,
            stability=config.stability,
            quantisation=config.quantisation,
            tampering=config.tampering,
            reference=None if config.reference is None else portable(config.reference),
            reinforced=reinforced,
            asked=facts_of(corpus.forget) if self.gives_verdict else (),
        )

    def logged(self, run: Run, log: Sequence[Mapping[str, Any]], events: Events) -> None:
        if self.config.early_drop is not None:
            rows = self.corpus.forget
            if self.filter is not None:
                rows = tuple(compress(rows, self.filter.kept))
            events.said(write_dropped(run.directory, log, rows))

    @property
    def steps(self) -> TrainingWork:
        return self.held_out.added(unlearning(self.config, self.corpus, self.at_hand(self.config.model)))

    def outline(self) -> list[str]:
        self.check()
        forget, retain = self.corpus.forget, self.corpus.retain
        title = f"unlearn {len(forget)} rows with {self.config.label}, retain set of {len(retain)}"
        lines = self._outlined(title, (*forget, *retain))
        if self.config.early_drop is not None:
            lines.append("  at most: after each epoch, rows that the model no longer answers are left out")
        if self.config.stop is not None:
            lines.append("  at most: after each epoch, training ends if the true answers' margins are gone")
        lines += self.held_out.outline()
        if compares(union_of_needs(self.config.terms)):
            lines.append(
                "  first what terms compare with, from the starting model: one forward pass of these texts, no second "
                "model"
            )
        return lines


class Learn(Unlearn):
    """Trains a task vector on what is to be forgotten, which is then subtracted."""

    kind: ClassVar = "learn"
    gives_verdict: ClassVar = False


class Adapter(Unlearn):
    """Trains an adapter that is fused with others: with the Gram matrices that fusing reads."""

    kind: ClassVar = "adapter"
    gives_verdict: ClassVar = False


def check_data(config: UnlearnRun, corpus: Corpus) -> None:
    """Raises UserError where a term needs what the data does not have."""
    check_rows(config.terms, corpus.forget, corpus.retain, needs_retain=config.needs_retain)
    if config.tampering is not None and len(corpus.forget) <= config.optim.batch_size:
        raise UserError(
            f"optim.batch_size: {config.optim.batch_size}: tampering attacks with forget rows that are not of the "
            f"step's batch, and there are {len(corpus.forget)} in all; lower it"
        )
