"""ROUGE-L recall of a generation (Lin 2004; with a stemmer, as in TOFU, arXiv:2401.06121, section 2.2)."""

from functools import cache, lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.summary_rouge import summary_recall
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words, tokenizer_of

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class Rouge(Metric):
    """`words: published` knows the letters a to z alone, as all published figures do: in any other script every answer
    scores 0, or by its digits. `definition: rwku` is that of the package `rouge`: no stems, case and punctuation count,
    different words once; a generation of nothing says NOANSWER, as in RWKU.
    """

    title: ClassVar = "ROUGE-L recall of the generated answer against the true one"
    direction: ClassVar = "higher: the answer's words are still said"
    source: ClassVar = "arXiv:2401.06121, section 2.2"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["rouge"] = "rouge"
    words: Words = "unicode"
    definition: Literal["tofu", "rwku"] = "tofu"

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        if self.definition == "rwku":
            return summary_recall(record.reference, record.generation.strip() or "NOANSWER")
        return rouge_l_recall(record.reference, record.generation, self.words)


@lru_cache(maxsize=65536)  # the entailment metric asks again for what this one has computed: 1 ms a text
def rouge_l_recall(reference: str, generation: str, words: Words = "unicode") -> float:
    """Longest common subsequence of stemmed words over the reference's words; 0 where either has none."""
    return float(_scorer(words, stemmer=True).score(reference, generation)["rougeL"].recall)


@lru_cache(maxsize=65536)
def rouge_l_f1(reference: str, generation: str, words: Words = "unicode", *, stemmer: bool) -> float:
    """Harmonic mean of ROUGE-L recall and precision: what is added to the reference's words counts against it."""
    return float(_scorer(words, stemmer=stemmer).score(reference, generation)["rougeL"].fmeasure)


@cache
def _scorer(words: Words, *, stemmer: bool) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=tokenizer_of(words, stemmer=stemmer))
