"""Hard positives: of the questions about others, those that are near to the questions about the entity, and unlike each
other: so many of each neighbour, of the entity's own context, and of general instructions."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field, model_validator

from obliviate.data.rows import Row
from obliviate.schema import Spec
from obliviate_eval.judges.similarity import Floats, SentenceEncoder

GENERAL, CONTEXT = "general instructions", "context"  # quotas beside those of neighbours


class NearMisses(Spec):
    """How near misses are chosen. The neighbours share, alike, what `general` and `context` leave."""

    per_question: int = Field(default=3, ge=1)  # hard positives for each question about the entity, on average
    general: float = Field(default=0.25, ge=0, le=1)  # share of general instructions
    context: float = Field(default=0.15, ge=0, le=1)  # share of the entity's context, where there is any
    # Weight of being unlike those that are chosen, against that of being near; 0: the nearest
    diversity: float = Field(default=0.3, ge=0, lt=1)
    candidates: str | None = None  # file of general instructions; with answers they keep them; None: the project's own
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"  # a hub id, a folder, or package:NAME

    @model_validator(mode="after")
    def _neighbours_have_a_share(self) -> "NearMisses":
        if self.general + self.context >= 1:
            raise ValueError(
                f"general: {self.general:g} and context: {self.context:g} leave neighbours no share; lower them"
            )
        return self

    def quotas(self, groups: Mapping[str, Sequence[Row]], negatives: int) -> dict[str, int]:
        """Of each group, by its name, how many; at least one of each that has any. What neighbours and context have too
        few of is made up by general instructions."""
        shares = {GENERAL: self.general, CONTEXT: self.context if groups.get(CONTEXT) else 0.0}
        neighbours = [name for name in groups if name not in shares]
        left = (1 - sum(shares.values())) / max(1, len(neighbours))
        total = self.per_question * negatives
        wanted = {name: shares.get(name, left) * total for name in groups}
        taken = {
            name: min(len(rows), max(1, round(wanted[name]))) if wanted[name] else 0 for name, rows in groups.items()
        }
        if self.general and GENERAL in groups:  # what others have too few of
            lacking = max(0, total - sum(taken.values()))
            taken[GENERAL] = min(len(groups[GENERAL]), taken[GENERAL] + lacking)
        return taken


def near_misses(
    negatives: Sequence[Row], groups: Mapping[str, Sequence[Row]], encoder: SentenceEncoder, spec: NearMisses
) -> dict[str, list[tuple[Row, float]]]:
    """Of each group as many as its quota, each with its cosine to the nearest negative, in the order of choice."""
    negative_ND = encoder.embed([row.question for row in negatives])
    found = {}
    for name, count in spec.quotas(groups, len(negatives)).items():
        rows = groups[name]
        if not count:
            continue
        candidate_CD = encoder.embed([row.question for row in rows])
        near_C = (negative_ND @ candidate_CD.T).max(0)
        chosen = marginal_relevance(near_C, candidate_CD, count, spec.diversity)
        found[name] = [(rows[place], float(near_C[place])) for place in chosen]
    return found


def marginal_relevance(near_C: Floats, candidate_CD: Floats, count: int, diversity: float) -> list[int]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): next is the candidate with the highest
    (1 - diversity) x nearness - diversity x highest cosine to one that is chosen; of equals the first."""
    chosen: list[int] = []
    likeness_C = np.zeros_like(near_C)
    left_C = np.ones(len(near_C), dtype=bool)
    while len(chosen) < count:
        value_C = np.where(left_C, (1 - diversity) * near_C - diversity * likeness_C, -np.inf)
        place = int(value_C.argmax())
        cosine_C = candidate_CD @ candidate_CD[place]
        likeness_C = np.maximum(likeness_C, cosine_C) if chosen else cosine_C
        left_C[place] = False
        chosen.append(place)
    return chosen
