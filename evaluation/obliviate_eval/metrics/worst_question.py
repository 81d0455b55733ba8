"""The worse of two wordings of each question (Singh et al. 2025, JensUn, arXiv:2509.02820)."""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.metrics.entailment import Entailment
from obliviate_eval.metrics.exact_match import ExactMatch
from obliviate_eval.metrics.key_probability import KeyProbability
from obliviate_eval.metrics.key_said import KeySaid
from obliviate_eval.metrics.knowledge_memorization import KnowledgeMemorization
from obliviate_eval.metrics.leak_at_k import LeakAtK
from obliviate_eval.metrics.probability import Probability
from obliviate_eval.metrics.rouge import Rouge
from obliviate_eval.records import REWORDED, Probe
from obliviate_eval.statistics import Estimate, means, nothing

# Higher: known.
Of = KeySaid | KeyProbability | Rouge | Probability | Entailment | KnowledgeMemorization | ExactMatch | LeakAtK


class WorstQuestion(Comparison):
    """Mean over the forget items of the higher of two scores: of the question as given, and of its paraphrase. With
    scores of 0 and 1 it is the share of items that either wording brings out, where the mean of both hides half of
    them. Needs `evaluation.questions: both`; an item that `of` cannot score in both wordings is unscored.
    """

    title: ClassVar = "The worse of a question and its paraphrase, item by item"
    direction: ClassVar = "higher: the fact comes out in one wording or the other"
    source: ClassVar = "arXiv:2509.02820"
    needs: ClassVar = KeySaid.needs

    type: Literal["worst_question"] = "worst_question"
    of: Annotated[Of, Field(discriminator="type")] = KeySaid()

    @property
    def probes(self) -> frozenset[Probe]:
        return self.of.needs_of(Role.FORGET)

    def asks(self, name: str, role: Role) -> bool:
        return role is Role.FORGET

    def estimate(self, samples: Samples) -> Estimate:
        """Items are resampled with both of their wordings."""
        pairs = [
            (sample, samples[name + REWORDED])
            for name, sample in samples.items()
            if sample.role is Role.FORGET and name + REWORDED in samples
        ]
        if not pairs:
            forget = [sample for sample in samples.values() if sample.role is Role.FORGET]
            return nothing(sum(len(each.records) for each in forget), len(forget[0].counts_RI) if forget else 0)
        worse = [
            worst([self.of.of(each), self.of.of(other)])
            for given, reworded in pairs
            for each, other in zip(given.records, reworded.records, strict=True)
        ]
        counts_RI = np.concatenate([given.counts_RI for given, _ in pairs], axis=1)
        return means([worse], counts_RI)[0]


def worst(scores: list[float | None]) -> float | None:
    """The highest; None where one of them is not known, which might have been higher."""
    known = [score for score in scores if score is not None]
    return max(known) if known and len(known) == len(scores) else None
