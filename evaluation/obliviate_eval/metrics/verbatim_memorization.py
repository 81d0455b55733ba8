"""Verbatim memorisation (Shi et al. 2024, MUSE, arXiv:2407.06460, section 3.1)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.rouge import rouge_l_f1
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words


class VerbatimMemorization(Metric):
    """ROUGE-L F1 of the greedy continuation of a text's beginning and the text's true continuation.

    MUSE stems no words; `definition: openunlearning` does. MUSE cuts the truth at as many tokens as may be generated,
    and so does the suite `muse`: F1 falls with the length of what could not be.
    """

    title: ClassVar = "Verbatim memorisation: ROUGE-L F1 of a text's continuation"
    direction: ClassVar = "higher: the text is still known by heart"
    source: ClassVar = "arXiv:2407.06460, section 3.1"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["verbatim_memorization"] = "verbatim_memorization"
    definition: Literal["muse", "openunlearning"] = "muse"
    words: Words = "unicode"

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        stemmer = self.definition == "openunlearning"
        return rouge_l_f1(record.reference, record.generation, self.words, stemmer=stemmer)
