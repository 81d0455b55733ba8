"""What `obliviate snap` takes: an entity and its neighbours, where questions and replies come from, how it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, field_validator, model_validator

from obliviate import storage
from obliviate.config import UnlearnRun, build, expand_method
from obliviate.options import UnlearnOptions
from obliviate.schema import ClusterSpec, EngineSpec, GenerationSpec, ModelSpec, OptimSpec
from obliviate.tracking import Tracked
from obliviate_recipes.snap.forms import FactQuestions
from obliviate_recipes.snap.positives import NearMisses
from obliviate_recipes.snap.questions import FileQuestions, ModelQuestions, TemplateQuestions
from obliviate_recipes.snap.replies import AnyReplies, TemplateReplies
from obliviate_recipes.subject import Subject

AnyQuestions = Annotated[
    TemplateQuestions | FactQuestions | FileQuestions | ModelQuestions, Field(discriminator="type")
]
# Looks at refusals of what nothing is trained on, unless told otherwise
VALIDATION = {"every_steps": 10, "retain_rows": 48, "patience": 6, "refusals": {}}
PLACEHOLDER = {"type": "files", "forget": "forget.jsonl", "retain": "retain.jsonl"}  # for rows that are not yet made


class SnapRun(Tracked):
    """`obliviate snap`: from an entity's name and texts to a model without it (SNAP, arXiv:2406.12329v1)."""

    model: ModelSpec
    entity: Subject
    neighbours: tuple[Subject, ...]  # one half trained on; of the other some looked at on the way, the rest measured
    context: tuple[Subject, ...] = ()  # what the entity has to do with and is to stay: places, works, fields
    questions: tuple[AnyQuestions, ...] = Field(
        default=(TemplateQuestions(), FactQuestions(), ModelQuestions()), min_length=1
    )
    nli: str | None = None  # judges written questions too: a hub id, a folder, or package:NAME; None: rules alone
    frames: int = Field(default=2, ge=0)  # in which each question that is trained on is asked besides
    replies: AnyReplies = TemplateReplies()
    positives: NearMisses = NearMisses()
    generation: GenerationSpec = GenerationSpec(max_new_tokens=64)  # the model's own answers, before it forgets
    engine: EngineSpec = EngineSpec()
    method: Any = "snap"
    regularizers: tuple[Any, ...] = ()
    # Further keys of `obliviate unlearn`, such as `updates`
    unlearn: UnlearnOptions = Field(default=UnlearnOptions(), validate_default=True)
    optim: OptimSpec = OptimSpec()
    cluster: ClusterSpec = ClusterSpec()
    seed: int = Field(default=0, ge=0)
    runs: str = "runs"

    @field_validator("unlearn", mode="before")
    @classmethod
    def _validated(cls, options: Any) -> Any:
        """With a validation, which `validation: null` leaves out."""
        given = options.model_dump(exclude_unset=True) if isinstance(options, UnlearnOptions) else options
        return {"validation": VALIDATION, **given} if isinstance(given, Mapping) else options

    @classmethod
    def long_form(cls, values: Any) -> Any:
        return expand_method({"method": "snap", **values}) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _what_there_is_to_ask_about(self) -> "SnapRun":
        if not self.entity.texts:
            raise ValueError(
                f"entity.texts: {self.entity.name} has no text; give plain text files that tell what is to be forgotten"
            )
        if len(self.neighbours) < 2:
            raise ValueError(
                f"neighbours: {len(self.neighbours)}: one half is trained on and one measured; give two at least"
            )
        seen = [subject.name.casefold() for subject in (self.entity, *self.neighbours, *self.context)]
        if twice := next((name for name in seen if seen.count(name) > 1), None):
            raise ValueError(f"neighbours: {twice} is named twice, or is the entity itself; remove one")
        if self.generation.samples != 1:
            raise ValueError(f"generation.samples is {self.generation.samples}; each question has one answer: set 1")
        validation = self.unlearn.validation
        telling = any(isinstance(source, FactQuestions | FileQuestions) for source in self.questions)
        if validation is not None and validation.refusals is not None and not telling:
            raise ValueError(
                "questions: none brings key facts, and so training cannot count those that are told; add "
                "{type: facts}, or set unlearn: {validation: null}"
            )
        self._unlearning(PLACEHOLDER)  # raises UserError for what unlearning would refuse
        return self

    @property
    def expected(self) -> UnlearnRun:
        """The training, before its rows are made: it looks at rows of its retain set."""
        return self._unlearning(PLACEHOLDER)

    def unlearning(self, data: Path, untouched: Path) -> UnlearnRun:
        """The training on the rows that `data`, a data.yaml, names; validated on the others, unless told otherwise."""
        return self._unlearning(yaml.safe_load(data.read_text(encoding="utf-8")), untouched)

    def _unlearning(self, data: Mapping[str, Any], untouched: Path | None = None) -> UnlearnRun:
        unlearn = self.unlearn
        if untouched is not None and unlearn.validation is not None and unlearn.validation.of_retain:
            validation = unlearn.validation.model_copy(update={"texts": storage.name(untouched)})
            unlearn = unlearn.model_copy(update={"validation": validation})
        values = {
            "name": f"snap-{self.entity.name}",
            "model": self.model.model_dump(),
            "data": data,
            **unlearn.model_dump(),
            "method": self.method,
            "regularizers": self.regularizers,
            "optim": self.optim.model_dump(),
            "cluster": self.cluster.model_dump(),
            "seed": self.seed,
            "runs": self.runs,
        }
        return build(UnlearnRun, values, where="unlearn")
