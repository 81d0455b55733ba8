"""What the attacks came to, as a stage: computed in seconds from the records of all attempts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar

from obliviate import plugins
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import Run, content_hash
from obliviate_eval.asked import suite_of
from obliviate_eval.content import content_of_code
from obliviate_eval.metrics import METRIC_TYPES, Probability
from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Record
from obliviate_eval.recovery import Arm, Scores
from obliviate_eval.robustness import (
    ANY,
    HEADLINE,
    PLAIN,
    ROBUSTNESS_FILE,
    Example,
    ModelFigures,
    Outcome,
    Robustness,
    Trial,
    figures_of,
    notes_of,
    outcomes_of,
    worst_of_each,
)
from obliviate_recipes.attacks.base import MEASURES, Attack, Attempt, Measured, Scene, Target
from obliviate_recipes.attacks.split import FORGET
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, Stage

Score = Callable[[Record], float | None]


@dataclass(frozen=True)
class Robust(Stage):
    """Reads what every attempt measured. `budget`: the share of utility that an attack may cost.

    Raises UserError for an attack that lacks something of the data, as soon as it is there.
    """

    kind: ClassVar = "attack"
    beside_engines: ClassVar = True

    name: str
    scene: Scene
    attacks: tuple[Attack, ...]
    targets: tuple[Target, ...]  # the unlearned ones
    budget: float

    def __post_init__(self) -> None:
        for attack in self.attacks:
            attack.check(self.scene)

    @property
    def label(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        return f"robustness of {', '.join(target.name for target in self.targets)}"

    @property
    def runs(self) -> str:
        return self.scene.runs

    @property
    def everyone(self) -> tuple[Target, ...]:
        control = () if self.scene.retain is None else (self.scene.retain,)
        return (self.scene.original, *control, *self.targets)

    @cached_property
    def attempts(self) -> dict[tuple[str, str], list[Attempt]]:
        """(attack, model) -> its attempts; those of all models are alike and in the same order."""
        plain = {
            (PLAIN, target.name): [Attempt("asked as usual", self.scene.plain(target), self.scene.plain(target))]
            for target in self.everyone
        }
        return plain | {
            (attack.label, target.name): list(attack.attempts(target, self.scene))
            for attack in self.attacks
            for target in self.everyone
        }

    @cached_property
    def needs(self) -> tuple[Stage, ...]:
        attempts = (one for found in self.attempts.values() for one in found)
        measured = (each.stage for one in attempts for each in (one.before, one.after))
        beside = (each for attack in self.attacks for one in self.everyone for each in attack.beside(one, self.scene))
        return tuple({stage.run.directory: stage for stage in (*measured, *beside)}.values())

    def determined(self) -> Determined:
        spec = self.scene.measuring.spec
        config = {
            "budget": self.budget,
            "resamples": spec.resamples,
            "seed": spec.seed,
            "targets": [target.name for target in self.targets],
            "retain": None if self.scene.retain is None else self.scene.retain.name,
            "attempts": [
                [attack, model, one.setting, one.before.file, one.after.file, list(one.on)]
                for (attack, model), found in self.attempts.items()
                for one in found
            ],
        }
        inputs = {
            "measured": content_hash([stage.run.content for stage in self.needs]),
            "code": content_of_code(),
            **({} if (others := plugins.content(self.attacks)) is None else {"others": others}),
        }
        return Determined(config, inputs)

    def check(self) -> None:
        suite = suite_of(self.scene.measuring.spec)
        if not {metric.type for metric in suite.metrics} & set(MEASURES):
            raise UserError(
                f"evaluation.suite: {suite.name}: has none of {', '.join(MEASURES)}, which tell whether a fact is "
                "known: take the suite robustness"
            )

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        spec, scene = self.scene.measuring.spec, self.scene
        retain = None if scene.retain is None else scene.retain.name
        trials = list(self._trials())

        def outcomes_in(trials: Sequence[Trial], model: str) -> list[Outcome]:
            return outcomes_of(
                model, trials, scene.original.name, retain, self.budget, resamples=spec.resamples, seed=spec.seed
            )

        outcomes = {target.name: outcomes_in(trials, target.name) for target in self.everyone}
        together = list(self._any(trials, outcomes))
        for name, found in outcomes.items():
            found += outcomes_in(together, name)
        models = {name: figures_of(found) for name, found in outcomes.items()}
        result = Robustness(
            control="none" if retain is None else "retain",
            split=scene.split.by,
            attacked=len(scene.split.attacked),
            items=len(scene.split.measured),
            utility_drop=self.budget,
            models=models,
            outcomes=outcomes,
            examples={
                target.name: self._example(target.name, outcomes[target.name], models[target.name], trials)
                for target in self.targets
            },
            notes=list(notes_of([target.name for target in self.targets], outcomes, retain is not None, self.budget)),
        )
        for note in result.notes:
            events.warned(note)
        result.write(run.directory / ROBUSTNESS_FILE)
        return {"robustness": ROBUSTNESS_FILE}

    def _example(
        self, model: str, outcomes: Sequence[Outcome], figures: ModelFigures, trials: Sequence[Trial]
    ) -> Example:
        """Of the item whose headline measure rose most under any attack within the budget."""
        arms = [
            trial.arms[model]
            for outcome, trial in zip(outcomes, trials, strict=False)
            if outcome.within and not outcome.own_scale and outcome.measure in HEADLINE
        ]
        risen = [max((_risen(arm, i) for arm in arms), default=0.0) for i in range(len(self.scene.split.measured))]
        item = max(range(len(risen)), key=lambda i: risen[i])
        attacked = figures.attacks.items()
        worst = {name: next(iter(each.worst.values())).setting for name, each in attacked if each.worst}
        attempts = {
            setting: next(one for one in self.attempts[attack, model] if one.setting == setting)
            for attack, setting in worst.items()
            if (attack, model) in self.attempts
        }
        said = {
            setting: next((r.generation for r in self._of(one.after, one.set) if _item(r, one.items) == item), None)
            for setting, one in attempts.items()
        }
        plain = self._of(self.attempts[PLAIN, model][0].after, FORGET)[item]
        return Example(plain.question, plain.reference, plain.generation, said)

    def _trials(self) -> Iterator[Trial]:
        names = [target.name for target in self.everyone]
        diagnoses = {each.label for each in self.attacks if each.diagnosis}
        for attack in (PLAIN, *(each.label for each in self.attacks)):
            columns = [self._by_setting(self.attempts[attack, name]) for name in names]
            for setting in columns[0]:
                group = {name: column[setting] for name, column in zip(names, columns, strict=True)}
                first = group[names[0]][0]
                utility = {name: self._utility(found) for name, found in group.items()} if first.changes else {}
                for measure in self._measures(first):
                    arms = {name: self._arm(found, measure) for name, found in group.items()}
                    yield Trial(
                        attack, setting, measure, first.own_scale, first.steps, arms, utility, attack in diagnoses
                    )

    def _any(self, trials: Sequence[Trial], outcomes: dict[str, list[Outcome]]) -> Iterator[Trial]:
        """An item is known if any attack within the budget gets it."""
        for measure in dict.fromkeys(trial.measure for trial in trials if not trial.own_scale):
            plain = next(trial for trial in trials if trial.measure == measure and trial.attack == PLAIN)
            arms = {}
            for name, arm in plain.arms.items():
                within = [outcome.within for outcome in outcomes[name][: len(trials)]]
                arms[name] = Arm(arm.before, worst_of_each(trials, measure, name, within))
            yield Trial(ANY, "the worst of all attacks, item by item", measure, False, None, arms, {})

    def _by_setting(self, attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
        """Those of several seeds together."""
        found: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            found.setdefault(attempt.setting, []).append(attempt)
        return found

    def _measures(self, attempt: Attempt) -> list[str]:
        """What the suite or the attack itself gives, of what it is to be read by."""
        return [name for name in attempt.on if attempt.own_scale or name in self._metrics]

    @cached_property
    def _metrics(self) -> dict[str, Metric]:
        return {metric.type: metric for metric in suite_of(self.scene.measuring.spec).metrics}

    def _score(self, name: str) -> Score:
        """By the suite's metric, another one with its defaults, or what a look inside wrote into the record."""
        metric = self._metrics.get(name)
        if metric is None and name in METRIC_TYPES:
            metric = METRIC_TYPES[name].model_validate({})
        return (lambda record: record.logged.get(name)) if metric is None else metric.of

    def _arm(self, attempts: Sequence[Attempt], measure: str) -> Arm:
        own, count = attempts[0].own_scale, len(self.scene.split.measured)
        usual = next(name for name in MEASURES if name in self._metrics) if own else measure
        plain = [_scores(self._of(one.before, FORGET), self._score(usual), None, count) for one in attempts]
        after = [_scores(self._of(one.after, one.set), self._score(measure), one.items, count) for one in attempts]
        return Arm(_means(plain), _means(after))

    def _utility(self, attempts: Sequence[Attempt]) -> float | None:
        """What is left of the probability of all that was to be kept, as a share; None where nothing tells."""
        shares = []
        for one in attempts:
            means = [_kept(self._read(each)) for each in (one.before, one.after)]
            if means[0] is None or not means[0] or means[1] is None:
                return None
            shares.append(means[1] / means[0])
        return fmean(shares)

    def _of(self, measured: Measured, name: str) -> list[Record]:
        return [record for record in self._read(measured) if record.set == name]

    def _read(self, measured: Measured) -> list[Record]:
        return self.scene.measuring.answers_in(measured.path)


def _risen(arm: Arm, item: int) -> float:
    before, after = arm.before[item], arm.after[item]
    return 0.0 if before is None or after is None else after - before


def _item(record: Record, items: Sequence[int] | None) -> int:
    return record.index if items is None else items[record.index]


def _scores(records: Sequence[Record], measure: Score, items: Sequence[int] | None, count: int) -> Scores:
    """Of each item: the best of the rows that ask about it."""
    found: list[float | None] = [None] * count
    for record in records:
        item, score = _item(record, items), measure(record)
        known = found[item]
        found[item] = score if known is None else known if score is None else max(known, score)
    return found


def _means(scores: Sequence[Scores]) -> Scores:
    """Over seeds; an item that one of them has no score for has none."""
    columns = zip(*scores, strict=True)
    return [None if None in each else fmean(s for s in each if s is not None) for each in columns]


def _kept(records: Sequence[Record]) -> float | None:
    probability = Probability()
    scores = [probability.of(record) for record in records if record.role not in (Role.FORGET, Role.HOLDOUT)]
    told = [score for score in scores if score is not None]
    if scores and not told:
        return 0.0  # it gives no finite number: collapsed
    return fmean(told) if told else None
