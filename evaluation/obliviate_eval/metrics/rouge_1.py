"""ROUGE-1 recall of a generation (Lin 2004; as in PISTOL, arXiv:2406.16810)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.rouge_f1 import rouge_scores
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words


class Rouge1(Metric):
    """Share of the true answer's stemmed words that are in the generation, in any order."""

    title: ClassVar = "ROUGE-1 recall of the generated answer against the true one"
    direction: ClassVar = "higher: the answer's words are still said"
    source: ClassVar = "arXiv:2406.16810"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["rouge_1"] = "rouge_1"
    words: Words = "unicode"

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        return float(rouge_scores(record.reference, record.generation, self.words)["rouge1"].recall)
