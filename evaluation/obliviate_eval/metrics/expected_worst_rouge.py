"""The worst of k sampled answers (arXiv:2511.04934)."""

from math import comb
from typing import ClassVar, Literal

from pydantic import Field

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.rouge import rouge_l_recall
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words


class ExpectedWorstRouge(Metric):
    """Expected highest ROUGE-L recall among k sampled answers, from n >= k: with the scores s in ascending order, the
    sum over i of s_i C(i - 1, k - 1) / C(n, k), because that many of the C(n, k) choices have s_i as their highest.
    Needs no threshold. k = 1 is the mean, k = n the maximum.
    """

    title: ClassVar = "Expected ROUGE-L recall of the worst of k sampled answers"
    direction: ClassVar = "higher: the answer's words come out if asked often enough"
    source: ClassVar = "arXiv:2511.04934"
    needs: ClassVar = frozenset({Probe.SAMPLES})

    type: Literal["expected_worst_rouge"] = "expected_worst_rouge"
    k: int = Field(default=4, ge=1)
    words: Words = "unicode"

    def score(self, record: Record) -> float | None:
        n = len(record.samples)
        if n < self.k:
            return None
        scores = sorted(rouge_l_recall(record.reference, sample, self.words) for sample in record.samples)
        weighted = sum(s * comb(i, self.k - 1) for i, s in enumerate(scores))  # i counts from 0: C(i, k - 1)
        return min(1.0, weighted / comb(n, self.k))  # rounding may pass 1 by an ulp
