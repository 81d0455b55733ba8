"""Exact memorisation (Tirumala et al. 2022, arXiv:2205.10770)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.extraction_strength import right_tokens
from obliviate_eval.records import Probe, Record


class ExactMemorization(Metric):
    """Share of the true answer's tokens, the end of turn left out, that are the model's most likely, teacher-forced.

    Common words are right without any memory: a retain model is well above 0.
    """

    title: ClassVar = "Exact memorisation: share of the true answer's tokens that are the most likely"
    direction: ClassVar = "higher: more of the answer is known by heart"
    source: ClassVar = "arXiv:2205.10770"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["exact_memorization"] = "exact_memorization"

    def score(self, record: Record) -> float | None:
        right = right_tokens(record)
        return None if right is None else sum(right) / len(right)
