"""Probability of the words that carry the fact."""

from math import exp, fsum, isfinite
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class KeyProbability(Metric):
    """Geometric mean over the tokens of the fact's words in the true answer, which is teacher-forced up to each.

    The answer's own frame leads to the fact and names whom it is about: read it with `key_said`, which has neither.
    """

    title: ClassVar = "Probability of the words that carry the fact, per token"
    direction: ClassVar = "higher: the fact is still likely where its own sentence leads to it"
    source: ClassVar = "the entity span of arXiv:2605.24614, found from the false answers or given under `key`"
    needs: ClassVar = frozenset({Probe.KEY})

    type: Literal["key_probability"] = "key_probability"

    def score(self, record: Record) -> float | None:
        logp = [value for answer in record.answers.get(Probe.KEY, ()) for value in answer.logp]
        return exp(fsum(logp) / len(logp)) if logp and all(map(isfinite, logp)) else None
