"""A small NLI model trained on generated people, where no other is at hand."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from obliviate import storage
from obliviate.data.fictitious import nli_pairs
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.schema import ModelSpec, Spec
from obliviate_recipes.events import Events
from obliviate_recipes.stage import Determined, ModelStage

NEEDED_ACCURACY = 0.9  # of a trained NLI judge, on held-out people: below it entailment figures mean little


class JudgeSpec(Spec):
    """How it is trained."""

    encoder: str  # what it starts from: a hub id, a folder, or package:NAME
    people: int = Field(default=40, ge=2)
    held_out_people: int = Field(default=10, ge=1)


@dataclass(frozen=True)
class Judge(ModelStage):
    """Told of by its accuracy on people that it was not trained on."""

    kind: ClassVar = "judge"

    spec: JudgeSpec
    seed: int
    root: str

    @property
    def base(self) -> ModelSpec:
        return ModelSpec(source=self.spec.encoder)

    @property
    def label(self) -> str:
        return "nli"

    @property
    def title(self) -> str:
        return "train the NLI judge on generated people"

    @property
    def runs(self) -> str:
        return self.root

    @property
    def source(self) -> str:
        return storage.name(self.folder)

    def determined(self) -> Determined:
        return Determined(self.spec.model_dump(), {"seed": str(self.seed)})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.judges.train_nli import train_nli

        events.said(f"{self.title} ...")
        spec = self.spec
        pairs = nli_pairs(spec.people, self.seed)
        known = set(pairs)  # more people with the same seed: the first are the same, the others are held out
        held_out = [pair for pair in nli_pairs(spec.people + spec.held_out_people, self.seed) if pair not in known]
        return {"accuracy": train_nli(spec.encoder, pairs, held_out, self.folder, seed=self.seed)}

    def told(self, run: Run, events: Events) -> None:
        accuracy = run.summary["accuracy"]
        events.said(f"NLI judge: accuracy on held-out people {accuracy:.3f}")
        if accuracy < NEEDED_ACCURACY:
            raise UserError(
                f"train_nli: {accuracy:.3f} of the held-out pairs are judged right and {NEEDED_ACCURACY} is needed; "
                "raise train_nli.people, give another train_nli.encoder, or set train_nli: null and give "
                "evaluation.nli a model"
            )
