"""WMDP: multiple-choice questions about hazardous knowledge (Li et al. 2024, arXiv:2403.03218)."""

from typing import Any, Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.files import read_key
from obliviate.data.hub import choices_of, load_objects, text_of
from obliviate.data.options import LETTERS, lettered, others
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap

TOPICS = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity"}


class WmdpData(Data):
    """WMDP's questions, from the hub or from a local folder with `wmdp-bio/test.jsonl` and its like.

    A question stands with its lettered options, and the letters are what is scored, as in MMLU. The texts to forget
    are not public on the hub: give their file. Without one, a model can be measured and not trained.
    """

    type: Literal["wmdp"] = "wmdp"
    source: str = "cais/wmdp"  # hub id or local folder
    subjects: tuple[Literal["bio", "chem", "cyber"], ...] = Field(default=("bio", "cyber"), min_length=1)
    forget: str | None = None  # file of texts to forget
    retain: str | None = None  # file of texts to keep
    eval_limit: int | None = Field(default=None, ge=1)  # questions of each subject, from the beginning

    def load(self) -> Corpus:
        """Raises UserError for a missing file, a question without four options, or where the hub does not answer."""
        forget = () if self.forget is None else read_key("forget", self.forget)
        retain, warnings = without_overlap(forget, () if self.retain is None else read_key("retain", self.retain))
        sets = tuple(
            EvaluationSet(subject, Role.FORGET, self._questions(subject)[: self.eval_limit])
            for subject in self.subjects
        )
        return Corpus(forget, retain, sets, warnings, only_measured=self.forget is None)

    def _questions(self, subject: str) -> tuple[Row, ...]:
        objects = load_objects(self.source, f"wmdp-{subject}", "test")
        return tuple(row_of(row, where, TOPICS[subject]) for where, row in objects)


def row_of(row: Any, where: str, topic: str) -> Row:
    """A question with its lettered options, whose answer is a letter."""
    choices, right = choices_of(row, where)
    return Row(
        question=f"The following are multiple choice questions (with answers) about {topic}.\n\n"
        f"{text_of(row, 'question', where).strip()}\n{lettered(choices)}\nAnswer:",
        answer=LETTERS[right],
        perturbed_answers=others(LETTERS[right], len(choices)),
    )
