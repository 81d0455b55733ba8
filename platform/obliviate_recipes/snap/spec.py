"""What `obliviate snap` takes: an entity and its neighbours, where questions and replies come from, how it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from obliviate.config import RunSpec, UnlearnOptions, UnlearnRun, build, expand_method
from obliviate.schema import ClusterSpec, EngineSpec, GenerationSpec, ModelSpec, OptimSpec
from obliviate_recipes.snap.positives import NearMisses
from obliviate_recipes.snap.questions import AnyQuestions, ModelQuestions, TemplateQuestions
from obliviate_recipes.snap.replies import AnyReplies, TemplateReplies
from obliviate_recipes.subject import Subject

PLACEHOLDER = {"type": "files", "forget": "forget.jsonl", "retain": "retain.jsonl"}  # for rows that are not yet made


class SnapRun(RunSpec):
    """`obliviate snap`: from an entity's name and texts to a model without it (SNAP, arXiv:2406.12329v1)."""

    model: ModelSpec
    entity: Subject
    neighbours: tuple[Subject, ...]  # one half trained on, the other measured
    questions: tuple[AnyQuestions, ...] = Field(default=(TemplateQuestions(), ModelQuestions()), min_length=1)
    replies: AnyReplies = TemplateReplies()
    positives: NearMisses = NearMisses()
    generation: GenerationSpec = GenerationSpec(max_new_tokens=64)  # the model's own answers, before it forgets
    engine: EngineSpec = EngineSpec()
    method: Any = "snap"
    regularizers: tuple[Any, ...] = ()
    unlearn: UnlearnOptions = UnlearnOptions()  # further keys of `obliviate unlearn`, such as `updates`
    optim: OptimSpec = OptimSpec()
    cluster: ClusterSpec = ClusterSpec()
    seed: int = Field(default=0, ge=0)
    runs: str = "runs"

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
        seen = [subject.name.casefold() for subject in (self.entity, *self.neighbours)]
        if twice := next((name for name in seen if seen.count(name) > 1), None):
            raise ValueError(f"neighbours: {twice} is named twice, or is the entity itself; remove one")
        if self.generation.samples != 1:
            raise ValueError(f"generation.samples is {self.generation.samples}; each question has one answer: set 1")
        self._unlearning(PLACEHOLDER)  # raises UserError for what unlearning would refuse
        return self

    @property
    def expected(self) -> UnlearnRun:
        """The training, before its rows are made."""
        return self._unlearning(PLACEHOLDER)

    def unlearning(self, data: Path) -> UnlearnRun:
        """The training on the rows that `data`, a data.yaml, names."""
        return self._unlearning(yaml.safe_load(data.read_text(encoding="utf-8")))

    def _unlearning(self, data: Mapping[str, Any]) -> UnlearnRun:
        values = {
            "name": f"snap-{self.entity.name}",
            "model": self.model.model_dump(),
            "data": data,
            **self.unlearn.model_dump(),
            "method": self.method,
            "regularizers": self.regularizers,
            "optim": self.optim.model_dump(),
            "cluster": self.cluster.model_dump(),
            "seed": self.seed,
            "runs": self.runs,
        }
        return build(UnlearnRun, values, where="unlearn")
