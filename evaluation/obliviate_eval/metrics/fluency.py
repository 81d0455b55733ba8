"""Fluency: is a generation clean text? (OpenUnlearning, arXiv:2506.12618, where it is called gibberish)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class Fluency(Metric):
    """Probability of the class "clean" by a text classifier. It sees single words and short answers as little clean
    whatever they say, and a fluent refusal or a fluent falsehood as clean.
    """

    title: ClassVar = "Fluency of the generated answer, by a gibberish classifier"
    direction: ClassVar = "higher: clean text, not gibberish"
    source: ClassVar = "arXiv:2506.12618"
    needs: ClassVar = frozenset({Probe.GENERATION, Probe.FLUENCY})

    type: Literal["fluency"] = "fluency"

    def score(self, record: Record) -> float | None:
        return record.fluency
