"""`obliviate attack`: what every attack brings back, on unlearned models beside the original and the retain model."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from obliviate import storage
from obliviate_eval.robustness import ROBUSTNESS_FILE, Robustness
from obliviate_recipes.attacks.base import Scene, Target
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.attacks.spec import AttackRun
from obliviate_recipes.attacks.split import Split
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import OfData
from obliviate_recipes.several import Models, unlearned
from obliviate_recipes.stage import Stage
from obliviate_recipes.stages.measure import Measuring


class Attacks(OfData[AttackRun, Path]):
    """Makes the models that are not there, attacks all of them alike, and says what came back."""

    takes: ClassVar = AttackRun
    reports: ClassVar = True

    @cached_property
    def stages(self) -> Sequence[Stage]:
        config, corpus = self.config, self.corpus
        split = Split.of(corpus, config.split)
        measuring = Measuring(split.corpus(corpus), config.evaluation, config.cluster.address, config.runs)
        models = Models.of(config, corpus)
        control = models.retain if config.control == "retain" else None
        scene = Scene(
            split=split,
            measuring=measuring,
            cluster=config.cluster,
            seed=config.seed,
            original=Target("original", models.target, models.before),
            retain=None if control is None else Target("retain", control, models.before),
        )
        made = [Target(each.name, each.model, (each.stage,)) for each in unlearned(config, models, corpus)]
        ready = [Target(name, model) for name, model in config.models.items()]
        for attack in config.attacks:
            attack.check(scene)
        return [Robust(config.title, scene, config.attacks, (*made, *ready), config.budget.utility_drop)]

    def conclude(self, events: Events) -> Path:
        """The folder of what came out."""
        [stage] = self.stages
        file = stage.run.directory / ROBUSTNESS_FILE
        for line in told(Robustness.read(file)):
            events.said(line)
        events.said(f"figures: {storage.name(file)}")
        return stage.run.directory


def told(result: Robustness) -> Iterator[str]:
    """What is left of the secret, and what brings it back."""
    for name, model in result.models.items():
        score = model.score
        if score is None or score.value is None:
            yield f"{name}: robustness cannot be told"
        else:
            span = "" if score.low is None or score.high is None else f" ({score.low:.2f}–{score.high:.2f})"
            yield f"{name}: robustness {score.value:.2f}{span}, by {model.attack}, {model.measure}"
