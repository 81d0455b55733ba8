"""Extraction strength (Carlini et al. 2021, arXiv:2012.07805; for unlearning Wang et al. 2025, arXiv:2406.09179)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class ExtractionStrength(Metric):
    """1 - k / L, with L tokens in the true answer (the end of turn left out) and k the shortest prefix after which the
    model's most likely token is the right one to the end, teacher-forced. Not to be confused with entailment score,
    which other work abbreviates in the same way (ES).

    `definition: openunlearning` never says 0: its search ends at k = L - 1 even where the last token is wrong.
    """

    title: ClassVar = "Extraction strength: how much of the true answer its beginning brings back"
    direction: ClassVar = "higher: less of the answer must be given to get the rest"
    source: ClassVar = "arXiv:2012.07805; arXiv:2406.09179"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["extraction_strength"] = "extraction_strength"
    definition: Literal["carlini", "openunlearning"] = "carlini"

    def score(self, record: Record) -> float | None:
        right = right_tokens(record)
        if right is None:
            return None
        length = len(right)
        suffix = next((i for i, hit in enumerate(reversed(right)) if not hit), length)  # right tokens at the end
        if self.definition == "openunlearning":
            suffix = max(suffix, 1)
        return suffix / length


def right_tokens(record: Record) -> tuple[bool, ...] | None:
    """Whether each token of the true answer is the most likely one; the end of turn left out. None: nothing known."""
    answer = next(iter(record.answers.get(Probe.ANSWER, ())), None)
    if answer is None or not answer.content:
        return None
    return answer.greedy[: len(answer.content)]
