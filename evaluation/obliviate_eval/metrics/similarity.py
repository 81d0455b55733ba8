"""Cosine similarity of a generation and the true answer's sentence ("A Closer Look", arXiv:2410.08109)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class Similarity(Metric):
    """Cosine of sentence embeddings, negative values clipped to 0.

    A sentence with the wrong fact in the same words is similar: read it beside entailment, never alone.
    """

    title: ClassVar = "Cosine similarity of the generated answer and the true one"
    direction: ClassVar = "higher: the same topic and form"
    source: ClassVar = "arXiv:2410.08109"
    needs: ClassVar = frozenset({Probe.GENERATION, Probe.SIMILARITY})

    type: Literal["similarity"] = "similarity"

    def score(self, record: Record) -> float | None:
        return None if record.similarity is None else min(1.0, max(0.0, record.similarity))
