"""What membership inference looks at, of a set by itself: RWKU reports it of texts about whom a model forgets, and of
texts about others (arXiv:2406.10890), KnowUnDo as perplexity (arXiv:2407.01920)."""

from math import fsum
from typing import ClassVar, Literal
from zlib import compress

from pydantic import Field

from obliviate_eval.metrics.attack import true_answer
from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.mia_min_k import MiaMinK
from obliviate_eval.metrics.mia_min_k_plus_plus import MiaMinKPlusPlus
from obliviate_eval.records import Probe, Record

DIRECTION = "higher: less known; on what is kept, lower is better"


def content_loss(record: Record) -> float | None:
    """Of the true answer, in nats per token, the end of turn left out."""
    answer = true_answer(record)
    logp = None if answer is None else answer.content
    return -fsum(logp) / len(logp) if logp else None


class Loss(Metric):
    """Mean loss of the true answer's tokens, the end of turn left out. In nats; not bounded by 1."""

    title: ClassVar = "Loss of the true answer, nats per token"
    direction: ClassVar = DIRECTION
    source: ClassVar = "arXiv:2406.10890; arXiv:1709.01604"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["loss"] = "loss"

    def score(self, record: Record) -> float | None:
        return content_loss(record)


class ZlibLoss(Metric):
    """The same over the bytes that zlib makes of the answer. In nats a byte."""

    title: ClassVar = "Loss of the true answer over its compressed length"
    direction: ClassVar = DIRECTION
    source: ClassVar = "arXiv:2406.10890; arXiv:2012.07805, section 5.1"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["zlib_loss"] = "zlib_loss"

    def score(self, record: Record) -> float | None:
        answer, loss = true_answer(record), content_loss(record)
        return None if answer is None or not answer.text or loss is None else loss / len(compress(answer.text.encode()))


class MinKLoss(Metric):
    """Mean loss of the least likely share `k` of the answer's tokens, the end of turn left out. In nats."""

    title: ClassVar = "Min-K%: loss of the least likely tokens of the true answer"
    direction: ClassVar = DIRECTION
    source: ClassVar = "arXiv:2406.10890; arXiv:2310.16789"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["min_k_loss"] = "min_k_loss"
    k: float = Field(default=0.2, gt=0, le=1)

    def score(self, record: Record) -> float | None:
        return MiaMinK(k=self.k).signal(record, None)


class MinKPlusPlusLoss(Metric):
    """The same of each token's log-probability in standard deviations from its mean under the model. Needs the moments,
    which the Hugging Face engine alone measures.
    """

    title: ClassVar = "Min-K%++: the same in standard deviations"
    direction: ClassVar = DIRECTION
    source: ClassVar = "arXiv:2406.10890; arXiv:2404.02936"
    needs: ClassVar = frozenset({Probe.MOMENTS})

    type: Literal["min_k_plus_plus_loss"] = "min_k_plus_plus_loss"
    k: float = Field(default=0.2, gt=0, le=1)

    def score(self, record: Record) -> float | None:
        return MiaMinKPlusPlus(k=self.k).signal(record, None)
