"""Asking in other forms: is the fact gone, or only the wording in which it was unlearned?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from obliviate import storage
from obliviate.config_file import nearest
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.schema import ModelSpec
from obliviate_eval.asked import suite_of
from obliviate_eval.content import content_of_code
from obliviate_eval.formats import FORMATS, Asked, ask
from obliviate_eval.formats.base import Material
from obliviate_eval.own_suite import SuiteSpec
from obliviate_eval.records import RECORDS_FILE, read_records, write_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import METRICS_FILE, summarise
from obliviate_recipes.attacks.base import Attack, Attempt, Measured, OfAttack, Scene, Target, each_once
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.forms import room_in, with_room, with_room_to_answer
from obliviate_recipes.stages.measure import Records


class Ask(Attack):
    """Every format asks the items of V once; each is a setting, so that the worst case is over all of them."""

    title: ClassVar = "Asked in other forms: options, gaps, dialogues, framings, fillers, other languages"
    source: ClassVar = "arXiv:2411.15477, arXiv:2406.10890, arXiv:2509.02820"

    type: Literal["ask"] = "ask"
    # None: all that the data allows
    formats: Annotated[tuple[str, ...], AfterValidator(each_once), Field(min_length=1)] | None = None

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in formats or ():
            if name not in FORMATS:
                raise ValueError(f"{name}: is no format; {nearest(name, list(FORMATS))}")
        return formats

    def check(self, scene: Scene) -> None:
        try:
            self.asked(scene)
        except UserError as error:
            raise UserError(f"attacks.{self.label}.{error}") from error

    def asked(self, scene: Scene) -> Asked:
        """Raises UserError for a format that the data has nothing for."""
        split = scene.split
        return _asked(Material(split.measured, split.retain, split.attacked, scene.seed), self.formats)

    def attempts(self, target: Target, scene: Scene) -> Sequence[Attempt]:
        stage = Forms(target, scene, self)
        return [
            Attempt(
                setting=f"{self.label} {each.name}",
                before=scene.plain(target),
                after=Measured(stage),
                on=stage.asked.formats[each.name].metrics,
                own_scale=stage.asked.formats[each.name].own_scale,
                set=each.name,
                items=stage.asked.items[each.name],
            )
            for each in stage.asked.sets
            if each.role is Role.FORGET
        ]


@lru_cache(maxsize=2)
def _asked(material: Material, formats: tuple[str, ...] | None) -> Asked:
    """Once for all models."""
    return ask(material, formats)


@dataclass(frozen=True)
class Forms(OfAttack):
    """What a model says to the same items in other forms. Figures of all sets stand beside the records: also of what
    is to be answered still, the kept part of a mixed question and a question about a text."""

    kind: ClassVar = "ask"
    beside_engines: ClassVar = True

    attack: Ask

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (self.records,)

    @cached_property
    def asked(self) -> Asked:
        """The rows that the model has room for."""
        return self.attack.asked(self.scene).only(room_in(self._model, self._here))

    @cached_property
    def spec(self) -> EvaluationSpec:
        """Without judges: what is measured is computed from the records."""
        spec, formats = self.scene.measuring.spec, self.asked.formats
        types = dict.fromkeys(metric for each in formats.values() for metric in each.metrics)
        known: dict[str, Any] = {metric.type: metric.model_dump() for metric in suite_of(spec).metrics}
        metrics = [known.get(name, {"type": name}) for name in types]
        sets = {name: each.metrics for name, each in formats.items()}
        suite = SuiteSpec.model_validate({"metrics": metrics, "sets": sets})
        return spec.model_copy(
            update={
                "suite": suite, "questions": "given", "generation": with_room_to_answer(spec.generation),
                "encoder": None, "nli": None, "fluency": None, "judge": None, "harness": None,
            }
        )  # fmt: skip

    @cached_property
    def records(self) -> Records:
        shared = self.scene.measuring
        measuring = replace(shared, corpus=replace(shared.corpus, evaluation=self.asked.sets), spec=self.spec, nli=None)
        return Records(measuring, f"{self.target.name} {self.attack.label}", self._model, self.target.needs)

    @cached_property
    def _model(self) -> ModelSpec:
        return with_room(self.target.model, self._here, self.scene.measuring.spec.engine)

    @cached_property
    def _here(self) -> ModelSpec:
        """A model that is there already and has the target's tokenizer and positions."""
        return self.scene.records(self.target.name, self.target.model, self.target.needs).at_hand(self.target.model)

    def determined(self) -> Determined:
        spec = self.scene.measuring.spec
        config = {"resamples": spec.resamples, "seed": spec.seed}
        return Determined(config, {"records": self.records.run.content, "code": content_of_code()})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        records = read_records(storage.fetch(self.records.run.directory / RECORDS_FILE))
        write_records(run.directory / RECORDS_FILE, records)
        spec = self.spec
        found = summarise(records, suite_of(spec), resamples=spec.resamples, seed=spec.seed)
        found.write(run.directory / METRICS_FILE)
        if self.target == self.scene.original:  # they are of the data, and the same for all models
            for warning in self.asked.warnings:
                events.warned(f"{self.attack.label}: {warning}")
        kept = {name: found.sets[name]["rouge"].value for name, role in found.roles.items() if role is Role.RETAIN}
        if told := ", ".join(f"{name} {value:.2f}" for name, value in kept.items() if value is not None):
            events.said(f"{self.target.name}: still to be answered, ROUGE-L recall: {told}")
        return {"records": RECORDS_FILE, "metrics": METRICS_FILE}
