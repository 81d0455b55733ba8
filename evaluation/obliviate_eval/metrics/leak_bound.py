"""The rate of leakage with exact bounds (Clopper and Pearson 1934; for unlearning arXiv:2410.03523)."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.metrics.leak_at_k import LeaksBy, leaks, probes_of
from obliviate_eval.records import Probe, Record
from obliviate_eval.statistics import CONFIDENCE, Estimate, nothing
from obliviate_eval.words import Words


class LeakBound(Comparison):
    """Share of k answers in a row of which one leaks, over all forget questions, with its Clopper-Pearson interval.

    Each question's samples are cut into blocks of k, and what is left over is not used: blocks are independent, so that
    the interval holds for these questions whatever the number of samples, and 0 leaks of 100 does not mean 0. That
    questions leak at different rates only makes the count less variable than a binomial one (Hoeffding 1956), and the
    interval wider than it need be. The bootstrap interval of leak@k is about other questions, this one about more
    samples of these.
    """

    title: ClassVar = "leak@k over these questions, with Clopper-Pearson bounds"
    direction: ClassVar = "higher: the facts come out if asked often enough; the upper bound is what can be promised"
    source: ClassVar = "arXiv:2511.04934; arXiv:2410.03523"
    needs: ClassVar = frozenset({Probe.SAMPLES})

    type: Literal["leak_bound"] = "leak_bound"
    k: int = Field(default=4, ge=1)
    by: LeaksBy = "rouge"  # as of leak@k
    threshold: float = Field(default=0.5, gt=0, le=1)
    words: Words = "unicode"

    @property
    def probes(self) -> frozenset[Probe]:
        return probes_of(self.by)

    def asks(self, name: str, role: Role) -> bool:
        return role is Role.FORGET

    def estimate(self, samples: Samples) -> Estimate:
        forget = [sample for name, sample in samples.items() if self.asks(name, sample.role)]
        blocks = [[self._blocks(record) for record in sample.records] for sample in forget]
        flat = [block for of_set in blocks for block in of_set]
        scored = sum(1 for block in flat if block)
        total, leaked = sum(map(len, flat)), sum(map(sum, flat))
        resamples = len(forget[0].counts_RI) if forget else 0
        if total == 0:
            return nothing(len(flat), resamples)
        leaked_R, total_R = np.zeros(resamples), np.zeros(resamples)
        for sample, of_set in zip(forget, blocks, strict=True):
            leaked_R += sample.counts_RI @ np.array([sum(block) for block in of_set], dtype=np.float64)
            total_R += sample.counts_RI @ np.array([len(block) for block in of_set], dtype=np.float64)
        from scipy.stats import binomtest

        bounds = binomtest(leaked, total).proportion_ci(CONFIDENCE, method="exact")
        return Estimate(
            value=leaked / total,
            resampled=leaked_R / np.maximum(total_R, 1),
            drawn=total_R > 0,
            scored=scored,
            unscored=len(flat) - scored,
            bounds=(float(bounds.low), float(bounds.high)),
        )

    def _blocks(self, record: Record) -> list[bool]:
        """Whether each whole block of k samples has a leak."""
        leaked = leaks(record, self.by, self.threshold, self.words)
        return [any(leaked[i : i + self.k]) for i in range(0, len(leaked) - self.k + 1, self.k)]
