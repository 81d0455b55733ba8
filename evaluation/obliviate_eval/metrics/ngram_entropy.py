"""How varied a generation is: the entropy of its n-grams (Zhang et al. 2018, arXiv:1809.05972; as in RWKU)."""

import re
from collections import Counter
from functools import cache
from math import log2
from typing import Any, ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import spaced

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # n -> how much its entropy counts


class NgramEntropy(Metric):
    """Weighted mean of the entropies, in bits, of a generation's two-word and three-word sequences, which count 2/3 and
    4/3. Not bounded by 1: some 7 for 256 tokens of prose. Words and punctuation are NLTK's; sentences, at whose ends it
    parts a full stop from its word, end where white space follows one, so that "Dr. Who" has one token more than with
    NLTK's trained list of abbreviations. `definition: rwku` is the published code, which takes a text of a script
    without spaces for one word, and scores it 0.
    """

    title: ClassVar = "Entropy of the generated answer's n-grams, bits"
    direction: ClassVar = "higher: less repetition"
    source: ClassVar = "arXiv:1809.05972; arXiv:2406.10890"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["ngram_entropy"] = "ngram_entropy"
    definition: Literal["plain", "rwku"] = "plain"

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        text = record.generation if self.definition == "rwku" else spaced(record.generation)
        sentences = SENTENCE_END.split(text.strip())
        words = [word for sentence in sentences for word in _tokenizer().tokenize(sentence)]
        return sum(weight * _entropy_bits(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def _entropy_bits(words: list[str], n: int) -> float:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return sum(count / counts.total() * log2(counts.total() / count) for count in counts.values())


@cache
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()
