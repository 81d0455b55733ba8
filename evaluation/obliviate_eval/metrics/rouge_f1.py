"""ROUGE-1, ROUGE-2 and ROUGE-L together (Joshi et al. 2024, ReLU, arXiv:2411.15477)."""

from collections.abc import Mapping
from functools import cache, lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import Words, tokenizer_of

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import Score


class RougeF1(Metric):
    """Mean of the F1 of ROUGE-1, ROUGE-2 and ROUGE-L, words stemmed. What is added to the truth counts against it."""

    title: ClassVar = "Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L against the true answer"
    direction: ClassVar = "higher: the answer's words are said"
    source: ClassVar = "arXiv:2411.15477"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["rouge_f1"] = "rouge_f1"
    words: Words = "unicode"

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        return fmean(each.fmeasure for each in rouge_scores(record.reference, record.generation, self.words).values())


@lru_cache(maxsize=65536)
def rouge_scores(reference: str, generation: str, words: Words) -> "Mapping[str, Score]":
    """Of rouge1, rouge2 and rougeL, words stemmed."""
    found: Mapping[str, Score] = _scorer(words).score(reference, generation)
    return found


@cache
def _scorer(words: Words) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=tokenizer_of(words, stemmer=True))
