"""Does the answer say the fact?"""

from typing import ClassVar, Literal

from obliviate.data.key_facts import says
from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class KeySaid(Metric):
    """1 where the greedy answer holds every word group that carries the fact, or an alias of the answer, else 0.

    Words are compared case folded, in any script; the groups may stand in any order. Of a row whose fact is not known,
    there is no score.
    """

    title: ClassVar = "Answers that say the fact"
    direction: ClassVar = "higher: more of the facts are told to whoever asks"
    source: ClassVar = "keyword hit of arXiv:2406.13356, the words as those of key_probability"
    needs: ClassVar = frozenset({Probe.GENERATION, Probe.KEY})

    type: Literal["key_said"] = "key_said"

    def score(self, record: Record) -> float | None:
        keys = [answer.text for answer in record.answers.get(Probe.KEY, ())]
        if record.generation is None or not keys:
            return None
        said = says(record.generation, keys) or any(says(record.generation, (alias,)) for alias in record.aliases)
        return float(said)
