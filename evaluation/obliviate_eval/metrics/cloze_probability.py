"""Probability of a gap's words (Joshi et al. 2024, ReLU, arXiv:2411.15477, appendix B)."""

from math import exp
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.loss import content_loss
from obliviate_eval.records import Probe, Record


class ClozeProbability(Metric):
    """Geometric mean over the tokens of the true answer, the end of turn left out: a gap's text goes on behind it."""

    title: ClassVar = "Probability of a gap's words, per token"
    direction: ClassVar = "higher: the fact is still likely where a sentence leads to it"
    source: ClassVar = "arXiv:2411.15477, appendix B"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["cloze_probability"] = "cloze_probability"

    def score(self, record: Record) -> float | None:
        loss = content_loss(record)
        return None if loss is None else exp(-loss)
