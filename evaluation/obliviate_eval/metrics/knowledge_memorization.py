"""Knowledge memorisation (Shi et al. 2024, MUSE, arXiv:2407.06460, section 3.1)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.rouge import rouge_l_f1
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words

STOPS = ("\n\n", "\nQuestion", "Question:")  # where a base model that saw examples goes on to the next one


class KnowledgeMemorization(Metric):
    """ROUGE-L F1 of the greedy answer to a question about a text, cut where the model begins another question, and the
    true answer. A right answer in a longer sentence scores low: compare models, not texts.

    MUSE stems no words; `definition: openunlearning` does.
    """

    title: ClassVar = "Knowledge memorisation: ROUGE-L F1 of the answers to questions about the texts"
    direction: ClassVar = "higher: the facts are still said"
    source: ClassVar = "arXiv:2407.06460, section 3.1"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["knowledge_memorization"] = "knowledge_memorization"
    definition: Literal["muse", "openunlearning"] = "muse"
    words: Words = "unicode"

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        answer = record.generation
        for stop in STOPS:
            answer = answer.partition(stop)[0]
        stemmer = self.definition == "openunlearning"
        return rouge_l_f1(record.reference, answer.strip(), self.words, stemmer=stemmer)
