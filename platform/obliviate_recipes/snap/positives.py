"""Hard positives: of the questions about others, those that are nearest to the questions about the entity."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from obliviate.data.rows import Row
from obliviate.schema import Spec
from obliviate_eval.judges.similarity import SentenceEncoder


class NearMisses(Spec):
    """How near misses are chosen among the questions about neighbours, and those of `candidates`."""

    per_question: int = Field(default=3, ge=1)  # chosen for each question about the entity; some for several of them
    candidates: str | None = None  # file of further questions, general instructions say; with answers they keep them
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"  # a hub id, a folder, or package:NAME


def near_misses(
    negatives: Sequence[Row], candidates: Sequence[Row], encoder: SentenceEncoder, per_question: int
) -> list[tuple[Row, float]]:
    """Of each question the nearest candidates by cosine; each once, with its cosine to the question nearest to it,
    the nearest first."""
    negative_ND, candidate_CD = (encoder.embed([row.question for row in rows]) for rows in (negatives, candidates))
    cosine_NC = negative_ND @ candidate_CD.T
    nearest_NK = np.argsort(-cosine_NC, axis=1, kind="stable")[:, :per_question]
    chosen = sorted(set(nearest_NK.flatten().tolist()), key=lambda c: (-cosine_NC[:, c].max(), c))
    return [(candidates[c], float(cosine_NC[:, c].max())) for c in chosen]
