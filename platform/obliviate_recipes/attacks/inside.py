"""What attacks that look inside share: a stage whose work is done in one process with room for a model."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from obliviate import fit
from obliviate.data.rows import EvaluationSet, Role, Row, content_of_rows
from obliviate.errors import UserError
from obliviate.inference.limits import context_limit
from obliviate.models import encoder_of, load_config
from obliviate.runs import Run
from obliviate.schema import EngineSpec, ModelSpec
from obliviate_eval.collect import Sampling
from obliviate_eval.records import RECORDS_FILE, Record, write_records
from obliviate_eval.spec import SamplingSpec
from obliviate_eval.suites.base import Suite
from obliviate_recipes.attacks.base import OnTarget, Target
from obliviate_recipes.attacks.split import FORGET
from obliviate_recipes.costs.work import Measured, Work, measuring, scoring
from obliviate_recipes.events import Events
from obliviate_recipes.placement import PLACEMENT
from obliviate_recipes.stage import Determined, Stage

SHAPE = ("num_hidden_layers", "hidden_size", "vocab_size")

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Look(OnTarget):
    """Reads hidden states of `target`, and of the models that it is compared with, on the Hugging Face engine."""

    @property
    def compared(self) -> Mapping[str, Target]:
        """Other models that are read."""
        return {}

    @property
    def before(self) -> tuple[Stage, ...]:
        """Looks that it builds on."""
        return ()

    @property
    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """That it reads."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What else determines it."""
        return {}

    @property
    def passes(self) -> int:
        """How often about each model reads the rows."""
        return 1

    @cached_property
    def needs(self) -> tuple[Stage, ...]:
        stages = [stage for each in self._targets.values() for stage in each.needs]
        return tuple({stage.run.directory: stage for stage in (*stages, *self.before)}.values())

    @property
    def _targets(self) -> dict[str, Target]:
        return {"target": self.target, **self.compared}

    @property
    def engine(self) -> EngineSpec:
        return self.scene.measuring.spec.engine

    def model(self, name: str = "target") -> ModelSpec:
        """For a process in another folder."""
        return self.portable(self._targets[name].model)

    def determined(self) -> Determined:
        models = {name: self.model(name) for name in self._targets}
        config = {
            "models": {name: model.model_dump(mode="json") for name, model in models.items()},
            "engine": self.engine.model_dump(mode="json", exclude=PLACEMENT["engine"]),
            **self.options,
        }
        inputs = {"rows": content_of_rows(self.rows)}
        return Determined(config, inputs | {each.kind: each.run.content for each in self.before}, models)

    def check(self) -> None:
        found = {name: self.at_hand(self.model(name)) for name in self._targets}
        for model in found.values():
            fit.check(model)
            fit.check_rows(model, self.rows)
        shapes = {name: _shape(model) for name, model in found.items()}
        for name, shape in shapes.items():
            if shape != shapes["target"]:
                raise UserError(
                    f"attacks: {self.kind}: {self.target.name} has {shapes['target']}, and {name} {shape}: states of "
                    "one mean nothing in the other; leave the attack out"
                )

    def work(self) -> tuple[Work, ...]:
        model = self.at_hand(self.model())
        once = scoring(model, self.rows, self.engine)
        work = Measured(self.title, replace(once, scored_texts=once.scored_texts * self.passes))
        return (work,) * len(self._targets)

    def ask(
        self,
        events: Events,
        function: Callable[Arguments, Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Result:
        """What the function gives, in a process of its own; in this one, if it has the room to itself already."""
        from obliviate.inference.task import in_task

        if self.scene.measuring.within:
            return function(*arguments, **named)
        with events.progressing(self.title) as show:
            show(0, 1, "")
            found = in_task(self.engine, self.scene.measuring.address, function, *arguments, **named)
            show(1, 1, "")
        return found

    def write(self, run: Run, scores: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
        """Records of V, each with its scores."""
        rows = self.scene.split.measured
        records = [
            Record(
                set=FORGET,
                role=Role.FORGET,
                index=index,
                question=row.question,
                reference=row.fact,
                full_reference=row.fact,
                logged={name: score for name, score in found.items() if score is not None},
            )
            for index, (row, found) in enumerate(zip(rows, scores, strict=True))
        ]
        write_records(run.directory / RECORDS_FILE, records)
        return {"records": RECORDS_FILE, "items": len(records)}


@dataclass(frozen=True)
class Asked(Look):
    """One that changes the target's hidden states, and then asks it what V and the kept sets ask, `times` over."""

    @property
    @abstractmethod
    def times(self) -> int:
        """How often it is asked."""

    @property
    def rows(self) -> Sequence[Row]:
        return self.scene.split.attacked

    @property
    def options(self) -> Mapping[str, Any]:
        measuring = self.scene.measuring
        return {
            "suite": [metric.model_dump(mode="json") for metric in self.scene.suite.metrics],
            "generation": measuring.spec.generation.model_dump(mode="json"),
            "measured": measuring.corpus.evaluation_content,
        }

    @property
    def asked(self) -> tuple[Sequence[EvaluationSet], Suite, Sampling]:
        measuring = self.scene.measuring
        return measuring.corpus.evaluation, self.scene.suite, Sampling(measuring.spec.generation, SamplingSpec())

    def check_room(self, tokens: int, label: str) -> None:
        """Raises UserError where the model has no room for so many tokens more, or no tokens that can stand for
        them."""
        model = self.at_hand(self.model())
        encoder = encoder_of(model)
        rows = (*self.rows, *(row for each in self.scene.measuring.corpus.evaluation for row in each.rows))
        texts = {row.saying(answer) for row in rows for answer in (row.fact, *row.perturbed_answers)}
        ids = [encoder.encode(*text).input_ids for text in texts]
        longest, limit = max(map(len, ids)), context_limit(self.engine, load_config(model))
        used = {token for each in ids for token in each} | set(encoder.tokenizer.all_special_ids)
        free = len(encoder.tokenizer) - len(used)
        if tokens > (most := min(limit - longest, free)):
            raise UserError(
                f"attacks.{label}.tokens: {tokens}: {self.target.name} has room for {limit} tokens, of which the "
                f"longest text takes {longest}, and {free} tokens that no text uses; give {most} at most"
            )

    def work(self) -> tuple[Work, ...]:
        shared = self.scene.measuring
        asked = Measured(self.title, measuring(self.at_hand(self.model()), shared.corpus, shared.spec))
        return (*super().work(), *[asked] * self.times)


def _shape(model: ModelSpec) -> str:
    text = load_config(model).get_text_config()
    layers, width, vocabulary = (getattr(text, name) for name in SHAPE)
    return f"{layers} layers of {width} numbers and {vocabulary} tokens"
