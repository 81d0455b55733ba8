"""Distinct n-grams (Li et al. 2016, arXiv:1510.03055)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class DistinctN(Metric):
    """Different n-grams of the generated tokens over all of them: near 0 for a phrase repeated for ever, which token
    entropy hardly sees if the phrase is long. Of each answer; the authors take all answers together, which falls with
    their number. Longer answers score lower. An answer of fewer than n tokens is not scored.
    """

    title: ClassVar = "distinct-n: share of different n-grams in the generated answer"
    direction: ClassVar = "higher: less repetition"
    source: ClassVar = "arXiv:1510.03055"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["distinct_n"] = "distinct_n"
    n: int = Field(default=2, ge=1)

    def score(self, record: Record) -> float | None:
        tokens = record.generation_tokens
        if record.generation is None or tokens is None or len(tokens) < self.n:
            return None
        grams = [tokens[i : i + self.n] for i in range(len(tokens) - self.n + 1)]
        return len(set(grams)) / len(grams)
