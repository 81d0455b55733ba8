"""Min-K%++ attack (Zhang et al. 2025, arXiv:2404.02936)."""

from math import sqrt
from typing import ClassVar, Literal

from pydantic import Field

from obliviate_eval.metrics.attack import Attack, mean_of_lowest
from obliviate_eval.records import Probe, Record

VARIANCE_FLOOR = 1e-6  # nats squared: a token that the model is certain of has no variance to divide by


class MiaMinKPlusPlus(Attack):
    """As Min-K%, of each token's log-probability less its mean under the model's own distribution, over its standard
    deviation: how likely the token is beside those that could have stood there. Needs the moments, which vLLM does not
    give: the Hugging Face engine measures them.
    """

    title: ClassVar = "Min-K%++ attack: AUC of forget against holdout"
    direction: ClassVar = "a retain model's value is the aim; 1: the forget set still looks trained on"
    source: ClassVar = "arXiv:2404.02936"
    needs: ClassVar = frozenset({Probe.MOMENTS})

    type: Literal["mia_min_k_plus_plus"] = "mia_min_k_plus_plus"
    k: float = Field(default=0.4, gt=0, le=1)

    def signal(self, record: Record, reference: Record | None) -> float | None:
        answer = next(iter(record.answers.get(Probe.MOMENTS, ())), None)
        logp = None if answer is None else answer.content
        if answer is None or logp is None or len(answer.mean) < len(logp) or len(answer.variance) < len(logp):
            return None
        standard = tuple(
            (value - mean) / sqrt(max(variance, VARIANCE_FLOOR))
            for value, mean, variance in zip(logp, answer.mean, answer.variance, strict=False)  # without end of turn
        )
        lowest = mean_of_lowest(standard, self.k)
        return None if lowest is None else -lowest
