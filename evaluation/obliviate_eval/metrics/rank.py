"""Where the true answer's tokens stand among all that could come next (Qiu et al. 2024, PISTOL, arXiv:2406.16810)."""

from math import isfinite
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


def ranks(record: Record) -> tuple[float, ...]:
    """Of the true answer's tokens, each behind those before it, the end of turn left out. 1: none is likelier."""
    answer = next(iter(record.answers.get(Probe.MOMENTS, ())), None)
    if answer is None or answer.content is None or not all(map(isfinite, answer.rank)):
        return ()
    return answer.rank[: len(answer.content)]


class MeanReciprocalRank(Metric):
    """Mean of 1 / rank over the tokens, which are given the true ones before them; the published code ranks them at the
    places of a free generation, which says the same only as long as the two are alike. Needs the Hugging Face engine.
    """

    title: ClassVar = "Mean reciprocal rank of the true answer's tokens"
    direction: ClassVar = "higher: the true tokens are among the likeliest"
    source: ClassVar = "arXiv:2406.16810"
    needs: ClassVar = frozenset({Probe.MOMENTS})

    type: Literal["mean_reciprocal_rank"] = "mean_reciprocal_rank"

    def score(self, record: Record) -> float | None:
        found = ranks(record)
        return fmean(1 / rank for rank in found) if found else None


class HitRate(Metric):
    """Share of the tokens that are among the `k` likeliest, measured as the mean reciprocal rank is."""

    title: ClassVar = "Hit rate: the true answer's tokens among the k likeliest"
    direction: ClassVar = "higher: the true tokens are at hand"
    source: ClassVar = "arXiv:2406.16810"
    needs: ClassVar = frozenset({Probe.MOMENTS})

    type: Literal["hit_rate"] = "hit_rate"
    k: int = Field(default=100, ge=1)

    def score(self, record: Record) -> float | None:
        found = ranks(record)
        return fmean(rank <= self.k for rank in found) if found else None
