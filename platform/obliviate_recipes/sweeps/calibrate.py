"""Methods at equal utility: each one's chosen model is drawn back towards the original until it is useful enough.

As in "Towards Effective Evaluations and Comparisons for LLM Unlearning Methods" (arXiv:2406.09179, unlearning with
control): what one method forgets at 60 % of the original's utility does not compare with what another forgets at 95 %,
so the weights are mixed with the original's until both keep the same share of it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from obliviate import storage
from obliviate.arithmetic import interpolate
from obliviate.digests import is_sound
from obliviate.runs import Run
from obliviate.schema import ModelSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage, original_weights, perform
from obliviate_recipes.stages.measure import Figures, Measuring
from obliviate_recipes.sweeps.front import Pair
from obliviate_recipes.sweeps.ranking import Ranked, choose
from obliviate_recipes.sweeps.records import TrialRecord
from obliviate_recipes.sweeps.result import Calibrated, Result
from obliviate_recipes.sweeps.trial import Shared, objectives

HALVINGS = 5  # the share is found to 1/32; each costs one evaluation
SHARES = "shares"  # folder of the models tried


def calibrate(result: Result, shared: Shared, events: Events) -> tuple[Calibrated, ...]:
    """One for each method: of the configuration that the rule takes among the method's own, the first seed's trial."""
    config = shared.config
    needed = config.calibrate_to * result.original[1]
    address = config.cluster.address
    measuring = Measuring(shared.corpus, shared.evaluation, address, config.runs, config.measures_here, waits=True)
    retain = None if shared.retain is None else measuring.figures("retain", shared.retain)
    found = []
    for method in dict.fromkeys(each.point.method for each in result.ranked if each.complete):
        trial = _of_method(result, method).trials[0]
        stage = Calibration(trial, needed, result.original, shared, measuring, retain)
        perform([stage], QUIET)
        found.append(Calibrated(**stage.run.summary))
        events.said(
            f"calibrate {method}: share {found[-1].share:.3f}, forget {found[-1].forget:.3f}, "
            f"utility {found[-1].utility:.3f} (needed {needed:.3f})"
        )
    return tuple(found)


def _of_method(result: Result, method: str) -> Ranked:
    """What the rule takes among the method's configurations; where none meets it, the most useful one."""
    own = [each for each in result.ranked if each.point.method == method and each.complete]
    return choose(own, result.config.choose, result.original[1]) or max(own, key=lambda each: each.utility.mean)


@dataclass(frozen=True)
class Calibration(ModelStage):
    """A trial's model, mixed with the original."""

    kind: ClassVar = "calibrate"
    waits: ClassVar = True  # two looks at one sweep may want it at once
    scratch: ClassVar = (SHARES,)

    trial: TrialRecord
    needed: float  # utility
    original: Pair
    shared: Shared
    measuring: Measuring
    retain: Figures | None

    @property
    def base(self) -> ModelSpec:
        return self.shared.target

    @property
    def label(self) -> str:
        return self.trial.id

    @property
    def title(self) -> str:
        return f"calibrate {self.trial.id}"

    @property
    def runs(self) -> str:
        return self.shared.config.runs

    @cached_property
    def places(self) -> tuple[Path, Path]:
        """Of the original's weights and the trial's."""
        assert self.trial.run is not None
        unlearned = storage.fetch(storage.local(self.trial.run) / MODEL)
        return original_weights(self.shared.target, self.runs), unlearned

    def determined(self) -> Determined:
        figures = self.shared.config.objectives.model_dump()
        config = {"trial": self.trial.id, "needed": self.needed, "evaluation": self.trial.evaluation,
                  "objectives": figures}  # fmt: skip
        source, unlearned = map(storage.name, self.places)
        return Determined(config, {"original": source, "unlearned": unlearned})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        record, (source, unlearned) = self.trial, self.places

        def at(share: float) -> Pair:
            folder = run.directory / SHARES / f"{share:.6f}"
            if not is_sound(storage.fetch(folder)):
                interpolate(source, unlearned, share, folder)
            model = self.model.at(storage.name(folder))
            figures = self.measuring.figures(f"{record.id} at {share:.3f}", model, self.retain)
            perform([figures], events)
            return objectives(Evaluation.read(figures.run.directory / METRICS_FILE), self.shared.config)

        assert record.forget is not None
        assert record.utility is not None
        share, (forget, utility) = largest_share(at, self.needed, self.original, (record.forget, record.utility))
        interpolate(source, unlearned, share, self.folder)
        return asdict(Calibrated(record.id, record.method, share, forget, utility, storage.name(self.folder)))


def largest_share(at: Callable[[float], Pair], needed: float, original: Pair, unlearned: Pair) -> tuple[float, Pair]:
    """The largest share found whose utility is at least `needed`, by halving, and its figures.

    Assumes that utility falls along the way; where it does not, the share found still keeps what is needed.
    """
    if unlearned[1] >= needed:
        return 1.0, unlearned
    low, high, best = 0.0, 1.0, original
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        pair = at(middle)
        if pair[1] >= needed:
            low, best = middle, pair
        else:
            high = middle
    return low, best
