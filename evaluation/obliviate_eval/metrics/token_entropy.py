"""Token entropy: how varied a generation is ("A Closer Look", arXiv:2410.08109)."""

from collections import Counter
from math import log2
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class TokenEntropy(Metric):
    """Unigram entropy of the generated tokens over its maximum, log2 of their number: 0 for a token repeated for ever.

    Tokens are the model's own, the end-of-turn token excluded. At most one token scores 0. Short texts score high
    whatever they say.
    """

    title: ClassVar = "Token entropy of the generated answer"
    direction: ClassVar = "higher: less repetition"
    source: ClassVar = "arXiv:2410.08109"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["token_entropy"] = "token_entropy"

    def score(self, record: Record) -> float | None:
        tokens = record.generation_tokens
        if record.generation is None or tokens is None:
            return None
        n = len(tokens)
        if n <= 1:
            return 0.0
        entropy_bits = sum(count / n * log2(n / count) for count in Counter(tokens).values())
        return min(1.0, entropy_bits / log2(n))  # rounding may pass 1 by an ulp
