"""Probability of a paraphrase of the true answer (OpenUnlearning, arXiv:2506.12618)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import WITH_OPTIONS, Metric
from obliviate_eval.records import Probe, Record


class ParaphrasedProbability(Metric):
    """Geometric mean over the tokens of an answer that says the same in other words: the fact, less its wording."""

    title: ClassVar = "Probability of the paraphrased true answer, per token"
    direction: ClassVar = "higher: the fact is still likely in other words"
    source: ClassVar = "arXiv:2506.12618"
    needs: ClassVar = frozenset({Probe.PARAPHRASED})

    type: Literal["paraphrased_probability"] = "paraphrased_probability"

    def score(self, record: Record) -> float | None:
        if record.role in WITH_OPTIONS:  # their short answer stands where a paraphrase would
            return None
        return next((answer.probability for answer in record.answers.get(Probe.PARAPHRASED, ())), None)
