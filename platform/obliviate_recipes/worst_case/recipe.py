"""An attack's settings are searched, by Ray Tune, for those that bring back most within the budget of utility.

A trial is the attack at one point of its settings, on all models alike: the unlearned ones, the original and the retain
model. Its stages are those of `obliviate attack`, so that a sweep that is run again finds what is made. In the end all
points are one attack, whose worst case within the budget counts.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from obliviate import storage
from obliviate.cluster import ensure_ray
from obliviate.errors import UserError
from obliviate.models import content_of
from obliviate.runs import Run
from obliviate_eval.robustness import HEADLINE, ROBUSTNESS_FILE, Outcome, Robustness
from obliviate_recipes.attacking import Attacking
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.stage import Stage, perform
from obliviate_recipes.sweeps.front import Figures
from obliviate_recipes.sweeps.sampler import open_sampler
from obliviate_recipes.sweeps.space import Point
from obliviate_recipes.sweeps.tuning import TUNE_ENVIRONMENT, place, tuned
from obliviate_recipes.worst_case.spec import AtSettings, WorstCaseRun, called

PLACEMENT = {"cluster", "runs", "concurrency", "max_failures", "tracking"}  # what changes how fast it is found


class WorstCase(Attacking[WorstCaseRun]):
    takes: ClassVar = WorstCaseRun

    def __init__(self, config: WorstCaseRun) -> None:
        # Trials may run in another folder than this command.
        super().__init__(config.model_copy(update={"runs": storage.name(storage.local(config.runs))}))

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """What all trials share: the models, each asked as usual."""
        return self.plain(self.robust(()))

    def at_points(self, points: Sequence[Point]) -> Robust:
        found = tuple((called(point), self.config.attack_at(point)) for point in points)
        return self.robust([AtSettings(name=self.config.attack.label, points=found)])

    def outline(self) -> Iterator[str]:
        self.at_points(list(self.config.space.corners()))  # raises UserError for what the data lacks
        return super().outline()

    def afterwards(self) -> Iterator[str]:
        config, sampler = self.config, open_sampler(self.config, ())
        yield (
            f"{sampler.count} settings of {config.attack.label} on {len(self.stages)} models, "
            f"{config.concurrency} at a time, sampler {config.sampler.type}"
        )

    def perform(self, events: Events) -> Path:
        for name, value in TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        ensure_ray(self.config.cluster.address, dashboard=not self.config.in_process)
        self.places = place(self.config)
        self.config = self.places.applied_to(self.config)
        return super().perform(events)

    def conclude(self, events: Events) -> Path:
        """Runs the trials; the path of the report on all of them."""
        from ray import tune

        from obliviate_recipes.sweeps.search import Search
        from obliviate_recipes.worst_case.watch import Watch

        config = self.config
        spec = config.model_dump(mode="json", exclude=PLACEMENT)
        inputs = {"model": content_of(config.model), "data": self.corpus.training_content}
        run = Run.at(Path(config.runs), "worst-case", config.title, spec, inputs).begin()
        sampler, threads = open_sampler(config, ()), max(1, int(self.places.cpus))
        watch = Watch(sampler.count, events)
        with run.locked():
            trainable = tune.with_parameters(run_point, shared=Shared(storage.name(run.directory), config, threads))
            search = Search(sampler, (0,), figures_in)
            tuned(trainable, search, sampler.count, config, self.places, run.directory, watch)
        tried = [point for point, cause in watch.ended.values() if cause is None]
        if not tried:
            raise UserError(f"settings: the attack failed at every one: {next(iter(watch.ended.values()))[1]}")
        robust = self.at_points(sorted(tried, key=lambda point: point.id))
        perform([robust], events)
        path = self.reported(robust, events)
        events.ended(run.directory)
        return path


@dataclass(frozen=True)
class Shared:
    """What all trials have in common; one is as good as another of the same folder."""

    directory: str
    config: WorstCaseRun = field(compare=False)
    threads: int = field(compare=False)


@lru_cache(maxsize=1)
def _recipe(shared: Shared) -> WorstCase:
    """Kept from trial to trial of one process, with its data and, of vLLM, its engine."""
    found = WorstCase(shared.config)
    found.scene.measuring.within = shared.config.in_process
    found.scene.measuring.waits = True
    return found


def run_point(tuned: Mapping[str, Any], shared: Shared) -> None:
    """The function that Ray Tune calls. A setting at which the attack fails for good (a loss that is not finite) is
    told with its cause: Tune would start it again, and the same would come of it."""
    import torch
    from ray import tune

    torch.set_num_threads(shared.threads)
    recipe = _recipe(shared)
    point = shared.config.canonical(Point(tuned["method"], tuned["values"]))
    robust = recipe.at_points([point])
    try:
        perform([robust], QUIET)
    except UserError as error:
        tune.report({"cause": str(error)})
        return
    outcomes = Robustness.read(robust.run.directory / ROBUSTNESS_FILE).outcomes
    found = [brought_back(outcomes[target.name], shared.config.attack.label) for target in recipe.targets]
    tune.report({"found": fmean(found)})


def brought_back(outcomes: Sequence[Outcome], attack: str) -> float:
    """The highest excess recovery within the budget of what the robustness score rests on; beyond the budget at every
    step, less than nothing: what the cheapest costs."""
    own = [each for each in outcomes if each.attack == attack and (each.own_scale or each.measure in HEADLINE)]
    within = [each.recovery.excess.value or 0.0 for each in own if each.within]
    if within:
        return max(within)
    return -min((each.utility_drop for each in own if each.utility_drop is not None), default=1.0)


def figures_in(result: Mapping[str, Any]) -> Figures | None:
    return (result["found"],) if "found" in result else None
