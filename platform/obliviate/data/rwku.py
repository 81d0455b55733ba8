"""RWKU: real people to forget, probed in many ways (Jin et al. 2024, arXiv:2406.10890)."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.files import read_key
from obliviate.data.hub import load_objects, text_of
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap
from obliviate.data.rwku_utility import UTILITY
from obliviate.errors import UserError

# Subset -> its file in the data set's repository (under All/) and in the folder of a target.
FILES = {
    "forget_target": "intro",
    "forget_level1": "forget_level1",
    "forget_level2": "forget_level2",
    "forget_level3": "forget_level3",
    "neighbor_level1": "neighbor_level1",
    "neighbor_level2": "neighbor_level2",
    "mia_forget": "forget_mia",
    "mia_retain": "retain_mia",
    "utility_general": "retain_mmlu",
    "utility_reason": "retain_bbh",
    "utility_truthfulness": "truthful",
    "utility_factuality": "triviaqa",
    "utility_fluency": "fluency",
    "train_original_passage": "passage",
    "train_positive_llama3": "positive",
    "train_positive_phi3": "positive_phi",
}
BLANK = "Please complete the blank in the following question.\nQuestion: {}\n"
BRIEF = "Please briefly answer the following question.\nQuestion: {}\n"
ANSWER = "Answer:"


class Probe(NamedTuple):
    """How a question is asked, and what its answer stands behind."""

    question: str
    prefix: str | None = ANSWER


# Of the adversarial kinds, by their letters, those that are not asked as any other question; the suffix is an answer's
# beginning itself.
ADVERSARIAL = {
    "affirmativesuffix": Probe(BRIEF.removesuffix("\n"), None),
    "incontextlearning": Probe("Please briefly answer the following question.\n{}\n"),
}


class RwkuData(Data):
    """RWKU's probes of its 200 people, from the hub or a folder: of the data set's repository, of one target as its
    authors pack them, or with `forget_level1/test.jsonl` and its like.

    Measured are blanks to fill (level 1), questions (level 2) and nine kinds of adversarial questions (level 3, a set
    each) about the targets; blanks and questions about their neighbours; texts about the targets and about others, for
    membership inference; and general ability. Published is one model for each target: name one, or the few that a model
    forgets together.
    """

    type: Literal["rwku"] = "rwku"
    source: str = "jinzhuoran/RWKU"  # hub id or local folder
    targets: tuple[str, ...] = ()  # names of the people to forget; empty: all that the source has
    # What to forget by: Wikipedia's passages, or texts that the model named wrote. None: models can only be measured.
    corpus: Literal["original_passage", "positive_llama3", "positive_phi3"] | None = None
    retain: str | None = None  # file of texts to keep; RWKU has none
    utility: bool = True  # whether general ability is measured
    eval_limit: int | None = Field(default=None, ge=1)  # rows measured of each set, from its beginning

    def load(self) -> Corpus:
        """Raises UserError for a missing file, an unknown name, or where the hub does not answer."""
        self._check_targets()
        forget = () if self.corpus is None else tuple(self._texts(f"train_{self.corpus}", "train"))
        retain, warnings = without_overlap(forget, () if self.retain is None else read_key("retain", self.retain))
        sets = [
            *self._levels("forget_level1", Role.FORGET),
            *self._levels("forget_level2", Role.FORGET),
            *self._adversarial(),
            EvaluationSet("mia_forget", Role.FORGET, tuple(self._texts("mia_forget", "test"))),
            *self._levels("neighbor_level1", Role.RETAIN),
            *self._levels("neighbor_level2", Role.RETAIN),
            EvaluationSet("mia_retain", Role.RETAIN, tuple(self._texts("mia_retain", "test"))),
            *(self._general() if self.utility else ()),
        ]
        limited = tuple(EvaluationSet(s.name, s.role, s.rows[: self.eval_limit]) for s in sets if s.rows)
        return Corpus(forget, retain, limited, warnings, only_measured=self.corpus is None)

    def _check_targets(self) -> None:
        if not self.targets:
            return
        known = [text_of(row, "target", where) for where, row in self._objects("forget_target", "train")]
        for name in self.targets:
            if name not in known:
                near = get_close_matches(name, known, n=1) or known[:3]
                raise UserError(f"data.targets: {name}: not among the {len(known)} of {self.source}; such as {near[0]}")

    def _levels(self, subset: str, role: Role) -> Iterator[EvaluationSet]:
        probe = Probe(BLANK if subset.endswith("1") else BRIEF)
        rows = (_asked(row, where, probe) for where, row in self._of_targets(subset))
        yield EvaluationSet(subset, role, tuple(rows))

    def _adversarial(self) -> Iterator[EvaluationSet]:
        kinds: dict[str, list[Row]] = {}
        for where, row in self._of_targets("forget_level3"):
            kind = text_of(row, "type", where)
            kinds.setdefault(kind, []).append(_asked(row, where, ADVERSARIAL.get(_letters(kind), Probe(BRIEF))))
        for kind, rows in kinds.items():
            yield EvaluationSet(f"forget_level3_{'_'.join(kind.lower().split())}", Role.FORGET, tuple(rows))

    def _general(self) -> Iterator[EvaluationSet]:
        for subset, row_of in UTILITY.items():
            rows = (row_of(row, where) for where, row in self._of_targets(subset))
            yield EvaluationSet(subset, Role.WORLD_FACTS, tuple(rows))

    def _texts(self, subset: str, split: str) -> Iterator[Row]:
        for where, row in self._of_targets(subset, split):
            yield Row("", text_of(row, "text", where), entity=text_of(row, "subject", where))

    def _of_targets(self, subset: str, split: str = "test") -> Iterator[tuple[str, Any]]:
        """Each row belongs to one of the people, that of general ability too."""
        for where, row in self._objects(subset, split):
            if not self.targets or (isinstance(row, Mapping) and row.get("subject") in self.targets):
                yield where, row

    def _objects(self, subset: str, split: str) -> list[tuple[str, Any]]:
        file = FILES[subset]
        return load_objects(self.source, subset, split, also=(f"All/{file}", file))


def _letters(kind: str) -> str:
    return "".join(filter(str.isalpha, kind.lower()))


def _asked(row: Any, where: str, probe: Probe) -> Row:
    return Row(
        question=probe.question.format(text_of(row, "query", where)),
        answer=text_of(row, "answer", where),
        answer_prefix=probe.prefix,
        entity=text_of(row, "subject", where),
    )
