"""Does a generation say the true answer and nothing else (Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250; LUME,
arXiv:2502.15097)?"""

import re
from string import punctuation
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import bare

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", punctuation)


Definition = Literal["plain", "squad"]


def bare_words(text: str, definition: Definition) -> list[str]:
    """Lower case, without punctuation and English articles; SQuAD's code knows the punctuation of ASCII alone, and no
    words without spaces between them."""
    text = text.lower() if definition == "squad" else bare(text)
    return ARTICLES.sub(" ", text.translate(NO_PUNCTUATION)).split()


class ExactMatch(Metric):
    """1 where the generation's words are those of the true answer or one of its aliases, but for case, punctuation and
    articles. With a `cue` ("the answer is") what counts is what follows it, up to the next full stop on the line;
    without it in the generation, all that is said. `definition: squad` is SQuAD's code, for published figures; `lume`
    lets only case and white space around both aside, and knows no aliases.
    """

    title: ClassVar = "Exact match of the generated answer and a true one"
    direction: ClassVar = "higher: the answer is given"
    source: ClassVar = "arXiv:1606.05250"
    needs: ClassVar = frozenset({Probe.GENERATION})

    type: Literal["exact_match"] = "exact_match"
    definition: Definition | Literal["lume"] = "plain"
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
        words = bare_words(said, self.definition)
        return float(any(words == bare_words(true, self.definition) for true in (record.reference, *record.aliases)))
