"""What a model must have forgotten, and what it must have kept, before it may be served."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import Field, model_validator

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.schema import Spec
from obliviate_eval.asked import suite_of
from obliviate_eval.metrics import AnyMetric
from obliviate_eval.metrics.base import KEPT
from obliviate_eval.records import Probe
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_recipes.requests.measurement import Measurement

JUDGES = {  # keys of `evaluation`
    Probe.SIMILARITY: "encoder",
    Probe.ENTAILMENT: "nli",
    Probe.SAMPLE_ENTAILMENT: "nli",
    Probe.FLUENCY: "fluency",
}


# Limits -> whether one forbids nothing to a figure from 0 to 1, as all but perplexities are.
LIMITS: dict[str, Callable[[float], bool]] = {
    "min": lambda limit: limit <= 0,
    "max": lambda limit: limit >= 1,
    "min_of_before": lambda limit: limit <= 0,
    "max_of_before": lambda limit: limit > 1,
}
LIKELY = "probability"  # of the true answers: what unlearning must not raise, whatever the policy says


def _allow() -> Any:
    """The default False, which certificates of before the key do not have."""
    return Field(default=False, exclude_if=lambda allow: not allow)


class Bound(Spec):
    """Limits of one figure; those that are given must all hold."""

    min: float | None = None
    max: float | None = None
    min_of_before: float | None = Field(default=None, ge=0)  # times what it was before unlearning
    max_of_before: float | None = Field(default=None, ge=0)
    allow: bool = _allow()  # a bound that no figure from 0 to 1 breaks

    @model_validator(mode="after")
    def _some_limit(self) -> "Bound":
        limits = {name: limit for name in LIMITS if (limit := getattr(self, name)) is not None}
        if not limits:
            raise ValueError("has no limit; give min, max, min_of_before or max_of_before")
        if not self.allow and all(LIMITS[name](limit) for name, limit in limits.items()):
            given = ", ".join(f"{name}: {limit:g}" for name, limit in limits.items())
            raise ValueError(f"{given} forbids nothing to a figure from 0 to 1; tighten it, or add allow: true")
        return self

    def broken(self, before: Figure | None, after: Figure | None) -> Iterator[str]:
        """What is wrong with the figure. One that could not be computed holds no limit."""
        if after is None or after.value is None:
            yield "could not be measured"
            return
        limits = [("min", self.min), ("max", self.max)]
        for name, factor in (("min", self.min_of_before), ("max", self.max_of_before)):
            if factor is None:
                continue
            if before is None or before.value is None:
                yield "could not be measured before unlearning"
            else:
                limits.append((name, factor * before.value))
        for name, limit in limits:
            if limit is not None and (after.value < limit if name == "min" else after.value > limit):
                yield f"is {after.value:.3f}, {'below' if name == 'min' else 'above'} {limit:.3f}"


class AttackBound(Spec):
    """The most of what was removed that an attack may bring back, as a share: excess recovery."""

    excess: float = Field(ge=0)
    allow: bool = _allow()  # to bring back all of it

    @model_validator(mode="after")
    def _some_limit(self) -> "AttackBound":
        if self.excess >= 1 and not self.allow:
            raise ValueError(f"excess: {self.excess:g} forbids nothing; lower it, or add allow: true")
        return self

    def broken(self, found: Figure | None) -> Iterator[str]:
        """What is wrong with what came back. An attack that ruins the model at every setting tells nothing."""
        if found is None or found.value is None:
            yield "could not be measured"
        elif found.value > self.excess:
            yield f"brings back {found.value:.3f}, above {self.excess:.3f}"


class Policy(Spec):
    """`forget` binds every request's figures on its own texts, `utility` those of what is kept.

    Names: a metric or aggregate of the suite in `forget`; an aggregate, or SET.METRIC, in `utility`; ATTACK.MEASURE in
    `attack`, of the attacks that the config names.
    """

    forget: dict[str, Bound] = Field(min_length=1)
    utility: dict[str, Bound] = Field(min_length=1)
    attack: dict[str, AttackBound] = Field(default={})
    recheck: bool = True  # what was certified earlier must still be forgotten, by the same limits but those of before

    def check(self, spec: EvaluationSpec, sets: Iterable[tuple[str, Role]], attacks: Collection[str] = ()) -> None:
        """`sets`: those that will be measured; `attacks`: the names of those that will be tried. Raises UserError for a
        name that is not measured on them."""
        for name in self.attack:
            attack, _, measure = name.rpartition(".")
            if attack not in attacks or not measure:
                tried = ", ".join(f"{each}.key_probability" for each in attacks) or "none: the config has no attacks"
                raise UserError(f"policy.attack.{name}: no such attack is tried; known, each with a measure: {tried}")
        suite = suite_of(spec)
        of_forget = [each.name for each in suite.aggregates if Role.FORGET in each.roles]
        of_kept = [each.name for each in suite.aggregates if each.roles and set(each.roles) <= set(KEPT)]
        own: dict[str, AnyMetric] = {metric.type: metric for metric in suite.metrics}
        on_sets = {
            f"{name}.{metric.type}": metric
            for name, role in sets
            if role in KEPT
            for metric in suite.metrics_of(name, role)
        }
        parts = (("forget", self.forget, of_forget, own), ("utility", self.utility, of_kept, on_sets))
        for part, bounds, aggregates, metrics in parts:
            for name in bounds:
                key, known = f"policy.{part}.{name}", [*aggregates, *metrics]
                if name not in known:
                    near = get_close_matches(name, known, n=1)
                    fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                    raise UserError(f"{key}: the suite {suite.name} measures no such thing; {fix}")
                needs = metrics[name].probes if name in metrics else frozenset()
                for probe in needs.intersection(JUDGES):
                    if getattr(spec, JUDGES[probe]) is None:
                        raise UserError(f"{key}: is judged by evaluation.{JUDGES[probe]}, which is null; give a model")

    def violations(self, requests: Mapping[int, bool], before: Measurement, after: Measurement) -> list[str]:
        """What keeps the model from being served, one line each. `requests`: those of the batch, and whether any of
        their texts were still known before it.

        What is forgotten before and after, as earlier requests are, says nothing to limits that compare the two.
        """
        found = []
        for request in sorted(after.requests if self.recheck else requests):
            figures, earlier = after.requests.get(request, {}), before.requests.get(request, {})
            bounds = self.forget if requests.get(request, False) else _absolute(self.forget)
            which = f"request {request}" if request in requests else f"earlier request {request}"
            for name, bound in bounds.items():
                found += [f"{which}: {name} {what}" for what in bound.broken(earlier.get(name), figures.get(name))]
            if requests.get(request, False):
                found += [f"{which}: {what}" for what in _likelier(earlier.get(LIKELY), figures.get(LIKELY))]
        for name, limit in self.attack.items():
            found += [f"attack: {name} {what}" for what in limit.broken(after.attacks.get(name))]
        for name, bound in self.utility.items():
            found += [f"utility: {name} {what}" for what in bound.broken(before.kept.get(name), after.kept.get(name))]
        return found


def _likelier(before: Figure | None, after: Figure | None) -> Iterator[str]:
    if before is None or after is None or before.value is None or after.value is None:
        return
    if after.value > before.value:
        yield f"its texts became more likely: {LIKELY} is {after.value:.3f}, before {before.value:.3f}"


def _absolute(bounds: Mapping[str, Bound]) -> dict[str, Bound]:
    return {
        name: Bound(min=bound.min, max=bound.max, allow=True)
        for name, bound in bounds.items()
        if bound.min is not None or bound.max is not None
    }
