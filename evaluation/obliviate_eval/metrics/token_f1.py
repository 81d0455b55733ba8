"""F1 of the words of a generation and a true answer (SQuAD, arXiv:1606.05250; TriviaQA, arXiv:1705.03551)."""

from collections import Counter
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.exact_match import Definition, bare_words
from obliviate_eval.records import Probe, Record


class TokenF1(Metric):
    """Harmonic mean of the shares of words that both have, order aside; of the true answer and its aliases the best.
    Words are as in `exact_match`.
    """

    title: ClassVar = "F1 of the generated answer's words and a true one's"
    direction: ClassVar = "higher: the answer is given, and little else"
    source: ClassVar = "arXiv:1705.03551"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["token_f1"] = "token_f1"
    definition: Definition = "plain"

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        said = Counter(bare_words(record.generation, self.definition))
        truths = (record.reference, *record.aliases)
        return max(_f1(said, Counter(bare_words(true, self.definition))) for true in truths)


def _f1(said: Counter[str], true: Counter[str]) -> float:
    if not said or not true:
        return float(said == true)
    return 2 * (said & true).total() / (said.total() + true.total())
