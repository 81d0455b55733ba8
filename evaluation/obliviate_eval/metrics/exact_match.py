"""Does a generation say the true answer and nothing else (Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250; LUME,
arXiv:2502.15097)?"""

import re
from string import punctuation
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", punctuation)


def bare_words(text: str) -> list[str]:
    """Lower case, without punctuation and English articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


class ExactMatch(Metric):
    """1 where the generation's words are those of the true answer or one of its aliases, but for case, punctuation and
    articles. With a `cue` ("the answer is") what counts is what follows it, up to the next full stop on the line;
    without it in the generation, all that is said. `definition: lume` lets only case and white space around both aside,
    and knows no aliases.
    """

    title: ClassVar = "Exact match of the generated answer and a true one"
    direction: ClassVar = "higher: the answer is given"
    source: ClassVar = "arXiv:1606.05250"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["exact_match"] = "exact_match"
    definition: Literal["squad", "lume"] = "squad"
    cue: str | None = None

    def score(self, record: Record) -> float | None:
        if record.generation is None:
            return None
        said = record.generation
        if self.cue is not None:
            found = re.search(rf"{re.escape(self.cue)} (.*?)\.", said, flags=re.IGNORECASE)
            said = said if found is None else found[1]
        if self.definition == "lume":
            return float(said.strip().lower() == record.reference.strip().lower())
        return float(any(bare_words(said) == bare_words(true) for true in (record.reference, *record.aliases)))
