"""Relearning: what comes back when the model is trained on something else, and how soon.

The trainings of a model, at every learning rate and with every seed, are one stage. Each is measured along the way, by
its own forward passes, because recovery falls again where T is overfitted; no model of it is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from obliviate import fit, storage
from obliviate.data.rows import Row, read_rows
from obliviate.data.schedule import micro_batch_count
from obliviate.errors import UserError, under
from obliviate.methods import GD, Pass
from obliviate.models import portable
from obliviate.runs import Run, content_hash
from obliviate.schema import LoraSpec, ModelSpec, OptimSpec, Seed
from obliviate.train.job import Job
from obliviate_eval.records import records_file
from obliviate_recipes.attacks.base import (
    Attack,
    Attempt,
    Measured,
    OfAttack,
    Scene,
    Target,
    each_once,
    rising,
)
from obliviate_recipes.attacks.watching import Watched
from obliviate_recipes.costs.training import TrainingWork
from obliviate_recipes.costs.work import Trained, Work, finetuning
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined
from obliviate_recipes.stages.training import details

KEY = "attacks.relearn.texts"
SETS = ("forget", "retain")  # what `texts` may be, beside a file


class Relearn(Attack):
    """Trains on T, on the retain set, or on other texts, with AdamW at a constant rate (or as `schedule` says).

    `texts`: "forget" is T; "retain" the retain set alone (arXiv:2505.22310); else a data file of unrelated texts, after
    Łucki et al. (arXiv:2409.18025). Of the grid of rates and steps the worst case within the budget counts, as in
    TamperBench.
    """

    title: ClassVar = "Trained on something else: on T, on the retain set, or on unrelated texts"
    source: ClassVar = "arXiv:2406.13356, arXiv:2410.08827, arXiv:2506.12618 section 4.2"

    type: Literal["relearn"] = "relearn"
    texts: str = Field(default="forget", min_length=1)  # forget, retain, or a data file
    rows: int | None = Field(default=None, ge=1)  # as many of them, drawn by the seed; None: all
    lora: LoraSpec | None = None  # train adapters; None: all weights
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], AfterValidator(each_once)] = Field(
        default=(1e-5, 1e-4), min_length=1
    )
    # After which it is measured; the last ends it
    steps: Annotated[tuple[int, ...], AfterValidator(rising("steps"))] = Field(default=(1, 5, 16), min_length=1)
    batch_size: int = Field(default=32, ge=1)  # of fewer rows: all
    micro_batch_size: int = Field(default=4, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "linear"] = "constant"
    seeds: Annotated[tuple[Seed, ...], AfterValidator(each_once)] = Field(default=(0,), min_length=1)

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        adapted = "" if self.lora is None else f" lora{self.lora.rank}"
        return f"relearn {self.texts if self.texts in SETS else Path(self.texts).stem}{adapted}"

    def check(self, scene: Scene) -> None:
        self.rows_of(scene)

    def rows_of(self, scene: Scene) -> tuple[Row, ...]:
        """What is trained on. Raises UserError where there is nothing."""
        split = scene.split
        rows = {"forget": split.attacked, "retain": split.retain}.get(self.texts)
        if rows is None:
            with under(KEY):
                rows = read_rows(self.texts)
            measured = {row.key for row in split.measured}
            if shared := sum(row.key in measured for row in rows):
                raise UserError(f"{KEY}: {self.texts}: {shared} of its rows are measured; take them out")
        if not rows:
            raise UserError(f"{KEY}: retain: the data has no retain set; give data.retain, or other texts")
        if self.rows is None or self.rows >= len(rows):
            return rows
        return tuple(rows[index] for index in sorted(Random(scene.seed).sample(range(len(rows)), self.rows)))

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        stage = Relearned(target, scene, self)
        found = []
        for rate in self.learning_rates:
            for steps in self.steps:
                for seed in self.seeds:
                    point = Point(rate, seed)
                    before, after = (Measured(stage, f"{point.folder}/{records_file(each)}") for each in (0, steps))
                    setting = f"{self.label}, rate {rate:g}, {steps} steps"
                    found.append(Attempt(setting, before, after, seed=seed, steps=steps, changes=True))
        return found


@dataclass(frozen=True)
class Point:
    """One training."""

    rate: float
    seed: int

    @property
    def folder(self) -> str:
        return f"rate-{self.rate:g}-seed-{self.seed}"


@dataclass(frozen=True)
class Relearned(OfAttack):
    """All trainings of one attack on one model, with records along the way."""

    kind: ClassVar = "relearn"

    attack: Relearn

    @property
    def label(self) -> str:
        return f"{self.attack.label}-{self.target.name}"

    @cached_property
    def model(self) -> ModelSpec:
        return self.target.model.model_copy(update={"lora": self.attack.lora})

    @cached_property
    def texts(self) -> tuple[Row, ...]:
        return self.attack.rows_of(self.scene)

    @cached_property
    def points(self) -> list[Point]:
        return [Point(rate, seed) for rate in self.attack.learning_rates for seed in self.attack.seeds]

    def optim(self, rate: float) -> OptimSpec:
        attack, rows = self.attack, len(self.texts)
        size = min(attack.batch_size, rows)
        return OptimSpec(
            learning_rate=rate,
            epochs=attack.steps[-1] * size / rows * (1 + 1e-9),  # not one step less by rounding
            batch_size=size,
            micro_batch_size=attack.micro_batch_size,
            weight_decay=attack.weight_decay,
            schedule=attack.schedule,
            warmup_steps=0,
        )

    def determined(self) -> Determined:
        measuring = self.scene.measuring
        config = {
            "attack": self.attack.model_dump(mode="json", exclude={"name", "micro_batch_size", "texts"}),
            "model": self.model.model_dump(mode="json"),
            "suite": [metric.model_dump(mode="json") for metric in self.scene.suite.metrics],
            "generation": measuring.spec.generation.model_dump(mode="json"),
            "micro_batches": self._micro_batches,
        }
        inputs = {
            "texts": content_hash([row.key for row in self.texts]),
            "measured": measuring.corpus.evaluation_content,
        }
        return Determined(config, inputs, {"model": self.model}, {**config, "of": self.attack.texts})

    @property
    def _micro_batches(self) -> int | None:
        """With dropout they change what is trained."""
        optim = self.optim(1.0)
        if not self.model.drops:
            return None
        return micro_batch_count(optim.batch_size, optim.micro_batch_size, self.scene.cluster.workers)

    def check(self) -> None:
        model = self.at_hand(self.model)
        fit.check(model, trained=True)
        fit.check_rows(model, self.texts)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate.train.launch import launch_watched  # Ray: a config is read without it

        jobs = list(self._jobs(run))
        total = len(jobs) * self.attack.steps[-1]
        if self.scene.measuring.within:
            from obliviate.train.here import watch

            watch(jobs)
            return {"trainings": [point.folder for point in self.points]}
        with events.progressing(self.title) as show:
            done = count(1)

            def on_step(metrics: Mapping[str, Any]) -> None:
                show(next(done), total, details(metrics))

            launch_watched(jobs, run.directory, self.scene.cluster, on_step)
        return {"trainings": [point.folder for point in self.points]}

    def _jobs(self, run: Run) -> Iterator[Job]:
        model = portable(self.model)
        measuring = self.scene.measuring
        for point in self.points:
            directory = run.directory / point.folder
            watch = Watched(
                steps=(0, *self.attack.steps),
                directory=storage.name(directory),
                model=model.model_copy(update={"lora": None}),
                sets=measuring.corpus.evaluation,
                suite=self.scene.suite,
                generation=measuring.spec.generation,
                batch_tokens=measuring.spec.engine.batch_tokens,
            )
            yield Job(
                model=model,
                terms=(GD(),),
                forget=(),
                retain=self.texts,
                refusals=(),
                optim=self.optim(point.rate),
                seed=point.seed,
                pairing="fresh",
                directory=directory,
                anchor=Pass.RETAIN,
                watch=watch,
            )

    @property
    def _steps(self) -> TrainingWork:
        return finetuning(self.optim(1.0), self.scene.seed, self.texts, self.at_hand(self.model))

    def work(self) -> tuple[Work, ...]:
        work = self._steps
        whole = replace(work, steps=work.steps * len(self.points))
        return (Trained(self.title, whole, self.scene.cluster.workers),)

    def outline(self) -> list[str]:
        self.check()
        rates = ", ".join(f"{rate:g}" for rate in self.attack.learning_rates)
        steps = ", ".join(map(str, self.attack.steps))
        return [
            f"{self.title}: {len(self.texts)} rows, rates {rates}, {len(self.attack.seeds)} seed(s), measured after "
            f"{steps} steps"
        ]
