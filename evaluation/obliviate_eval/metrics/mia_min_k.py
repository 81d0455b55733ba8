"""Min-K% attack (Shi et al. 2024, arXiv:2310.16789)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate_eval.metrics.attack import Attack, mean_of_lowest, true_answer
from obliviate_eval.records import Probe, Record


class MiaMinK(Attack):
    """The signal is the negative mean log-probability of the least likely share `k` of the answer's tokens, the end of
    turn left out: a text that was trained on has few surprises. k = 0.4 as in MUSE and OpenUnlearning.
    """

    title: ClassVar = "Min-K% attack: AUC of forget against holdout"
    direction: ClassVar = "a retain model's value is the aim; 1: the forget set still looks trained on"
    source: ClassVar = "arXiv:2310.16789"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["mia_min_k"] = "mia_min_k"
    k: float = Field(default=0.4, gt=0, le=1)

    def signal(self, record: Record, reference: Record | None) -> float | None:
        answer = true_answer(record)
        logp = None if answer is None else answer.content
        lowest = None if logp is None else mean_of_lowest(logp, self.k)
        return None if lowest is None else -lowest
