"""ROUGE-L recall of a generation (Lin 2004; with a stemmer, as in TOFU, arXiv:2401.06121, section 2.2)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.summary_rouge import summary_recall
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words, tokenizer_of


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


@lru_cache(maxsize=65536)  # the entailment metric asks again for what this one has computed
def rouge_l_recall(reference: str, generation: str, words: Words = "unicode") -> float:
    """Longest common subsequence of stemmed words over the reference's words; 0 where either has none."""
    return _recall_precision(reference, generation, words, stemmer=True)[0]


@lru_cache(maxsize=65536)
def rouge_l_f1(reference: str, generation: str, words: Words = "unicode", *, stemmer: bool) -> float:
    """Harmonic mean of ROUGE-L recall and precision: what is added to the reference's words counts against it."""
    recall, precision = _recall_precision(reference, generation, words, stemmer=stemmer)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _recall_precision(reference: str, generation: str, words: Words, *, stemmer: bool) -> tuple[float, float]:
    true, said = map(tokenizer_of(words, stemmer=stemmer).tokenize, (reference, generation))
    common = lcs_length(true, said)
    return (common / len(true), common / len(said)) if common else (0.0, 0.0)


def lcs_length(some: Sequence[str], other: Sequence[str]) -> int:
    """Words of the longest common subsequence: a row of its table is the bits of one integer (Hyyro 2004, "Bit-parallel
    LCS-length computation revisited"), so that a word costs a few operations on integers, not one for each word of the
    other text."""
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | 1 << place
    whole = (1 << len(other)) - 1
    row = whole  # a 0 where the subsequence grows by one
    for word in some:
        met = row & places.get(word, 0)
        row = (row + met | row - met) & whole
    return len(other) - row.bit_count()
