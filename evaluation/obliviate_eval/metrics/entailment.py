"""Entailment: does the generation state the fact? ("A Closer Look", arXiv:2410.08109, entailment score)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.rouge import rouge_l_recall
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words

ROUGE_FLOOR = 0.1  # below this ROUGE-L recall NLI models call unrelated or broken text entailed


class Entailment(Metric):
    """1 where the NLI label is "entailment", else 0; which text is the premise is the suite's choice for each role.

    Not to be confused with extraction strength, which other work abbreviates in the same way (ES).
    """

    title: ClassVar = "Entailment of the generated answer and the true one"
    direction: ClassVar = "higher: the fact is still stated"
    source: ClassVar = "arXiv:2410.08109"
    needs: ClassVar = frozenset({Probe.GENERATION, Probe.ENTAILMENT})

    type: Literal["entailment"] = "entailment"
    words: Words = "unicode"  # of the floor

    def score(self, record: Record) -> float | None:
        if record.generation is None or record.entailment is None:
            return None
        if rouge_l_recall(record.reference, record.generation, self.words) < ROUGE_FLOOR:
            return 0.0
        return float(record.entailment == "entailment")
