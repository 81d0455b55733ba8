"""`obliviate attack`: what every attack brings back, on unlearned models beside the original and the retain model."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from obliviate import storage
from obliviate.runs import write_whole
from obliviate.schema import ModelSpec
from obliviate_eval.robustness import ROBUSTNESS_FILE, Robustness
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.attacks.base import ORIGINAL, RETAIN, Attack, Scene, Target
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.attacks.spec import AttackSpec, BudgetSpec, check_labels
from obliviate_recipes.attacks.split import SplitSpec
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import OfData
from obliviate_recipes.reporting import REPORT, model_report, write
from obliviate_recipes.several import Models, UnlearnedModels, check_names, unlearned
from obliviate_recipes.stage import Stage
from obliviate_recipes.stages.card import Attacked, add_attacks, onto_card
from obliviate_recipes.stages.measure import Figures

SUMMARY = "summary.md"  # for whoever answers for a deletion


class AttackedModels(UnlearnedModels):
    """Which models are attacked, beside which, and on what. The unlearned models are those of `methods`, as `compare`
    makes them, and those of `models`."""

    models: dict[str, ModelSpec] = Field(default={})  # name -> a model that has forgotten
    control: Literal["retain", "none"] = "retain"  # none: nothing tells what an attack teaches by itself
    split: SplitSpec = SplitSpec()
    budget: BudgetSpec = BudgetSpec()
    evaluation: EvaluationSpec = EvaluationSpec(suite="robustness")

    @model_validator(mode="after")
    def _something_to_attack(self) -> Self:
        if not self.methods and not self.models:
            raise ValueError("models: nothing to attack; give models that have forgotten, or methods that make them")
        names = [*self.models, *(self.unlearning(each, "").name for each in self.methods)]
        check_names(names)
        if taken := [name for name in (ORIGINAL, RETAIN) if name in names]:
            raise ValueError(f"models: {taken[0]} is what figures call the {taken[0]} model; give another name")
        return self

    @model_validator(mode="after")
    def _asked_plainly(self) -> Self:
        if self.evaluation.questions == "formats":
            raise ValueError("evaluation.questions: formats: here the attack `ask` asks in every form; leave it out")
        return self

    @model_validator(mode="after")
    def _controlled(self) -> Self:
        if self.control == "retain" and self.retain_model is None and self.finetune is None:
            raise ValueError(
                "retain_model: attacks are compared with a model that never saw the forget set; give one, train it "
                "(obliviate finetune with train_on: retain, or finetune here), or set control: none"
            )
        return self


class AttackRun(AttackedModels):
    """`obliviate attack`: is it really gone? Attacks on unlearned models, on the original, and on the retain model."""

    attacks: tuple[AttackSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        check_labels(self.attacks)
        return self


A = TypeVar("A", bound=AttackedModels)


class Attacking(OfData[A, Path]):
    """Makes the models that are not there, attacks all of them alike, and says what came back."""

    reports: ClassVar = True
    within: ClassVar = False  # whether what this process holds is enough

    @cached_property
    def models(self) -> Models:
        return Models.of(self.config, self.corpus)

    @cached_property
    def scene(self) -> Scene:
        config, models = self.config, self.models
        control = models.retain if config.control == "retain" else None
        scene = Scene.of(
            self.corpus,
            config.split,
            config.evaluation,
            config,
            original=Target(ORIGINAL, models.target, models.before),
            retain=None if control is None else Target(RETAIN, control, models.before),
        )
        scene.measuring.within = self.within
        return scene

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The unlearned models."""
        made = [Target(m.name, m.model, (m.stage,)) for m in unlearned(self.config, self.models, self.corpus)]
        return (*made, *(Target(name, model) for name, model in self.config.models.items()))

    def robust(self, attacks: Sequence[Attack]) -> Robust:
        return Robust(self.config.title, self.scene, tuple(attacks), self.targets, self.config.budget.utility_drop)

    def plain(self, robust: Robust) -> list[Figures]:
        """Of every model as it is, asked as usual."""
        return [Figures(self.scene.plain_records(target)) for target in robust.everyone]

    def reported(self, robust: Robust, events: Events) -> Path:
        """The path of the report, beside a page that sums it up."""
        from obliviate_eval.report.robustness import robustness_section, robustness_table, summary_page  # plotly

        result = Robustness.read(robust.run.directory / ROBUSTNESS_FILE)
        names = [target.name for target in robust.targets]
        folder = robust.run.directory
        page = summary_page(self.config.title, result, names)
        write_whole(folder / SUMMARY, lambda temporary: temporary.write_text(page, encoding="utf-8"))
        for target in robust.targets:
            _onto_card(target, result, events)
        models = [model_report(each.run.directory) for each in self.plain(robust)]
        write(self.config.title, models, folder / REPORT, events, [robustness_section(result, names)])
        events.shown(robustness_table(result, names))
        events.said(f"summary: {storage.name(folder / SUMMARY)}")
        events.ended(folder)
        return folder / REPORT


class Attacks(Attacking[AttackRun]):
    takes: ClassVar = AttackRun

    @cached_property
    def stages(self) -> Sequence[Stage]:
        robust = self.robust(self.config.attacks)
        return [*self.plain(robust), robust]

    def conclude(self, events: Events) -> Path:
        robust = self.stages[-1]
        assert isinstance(robust, Robust)
        return self.reported(robust, events)


def _onto_card(target: Target, result: Robustness, events: Events) -> None:
    attacked = Attacked(
        control=result.control,
        items=result.items,
        utility_drop=result.utility_drop,
        figures=result.models[target.name],
    )
    onto_card(target.model, lambda run, folder: add_attacks(run, folder, attacked), events)
