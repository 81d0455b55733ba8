"""TOFU in other formats than it was trained on, made by rule from its own files (after ReLU, arXiv:2411.15477)."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby
from random import Random
from typing import Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.options import LETTERS, lettered, others
from obliviate.data.relu import ODD
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.tofu import TofuData

Format = Literal["mcqa", "cloze", "odd_one_out"]
FORMATS: tuple[Format, ...] = ("mcqa", "cloze", "odd_one_out")


class TofuFormatsData(Data):
    """What TOFU trains on, measured as questions with options (the paraphrased answer among false ones), as gaps (the
    words in which the false answers differ from it), and as the one fact of the forget set among facts of the retain
    set, or the other way round. The order is drawn by `seed`.

    Questions are laid out by the model's template.
    """

    type: Literal["tofu_formats"] = "tofu_formats"
    source: str = "locuslab/TOFU"  # hub id or local folder
    split: Literal["forget01", "forget05", "forget10"] = "forget10"
    retain_limit: int | None = Field(default=None, ge=1)  # as of `tofu`
    eval_forget_limit: int | None = Field(default=300, ge=1)  # rows that questions are made of, from the beginning
    eval_retain_limit: int | None = Field(default=300, ge=1)
    seed: int = 0
    formats: tuple[Format, ...] = Field(default=FORMATS, min_length=1)
    options: Literal[2, 3, 4] = 4  # of each question with options

    def load(self) -> Corpus:
        """Raises UserError as TofuData does."""
        corpus = TofuData(holdout=False, **self.model_dump(exclude={"type", "formats", "options"})).load()
        forget, retain = (
            next(each.rows for each in corpus.evaluation if each.role is role) for role in (Role.FORGET, Role.RETAIN)
        )
        sets = [
            EvaluationSet(f"{form}_{role}", role, self._rows(form, rows, Random(f"{self.seed} {form} {role}"), other))
            for form in self.formats
            for role, rows, other in ((Role.FORGET, forget, corpus.retain), (Role.RETAIN, retain, corpus.forget))
        ]
        return Corpus(corpus.forget, corpus.retain, tuple(s for s in sets if s.rows), corpus.warnings)

    def _rows(self, form: Format, rows: Sequence[Row], random: Random, other: Sequence[Row]) -> tuple[Row, ...]:
        if form == "cloze":
            return tuple(made for row in rows if (made := cloze(row)) is not None)
        if form == "odd_one_out":
            return self._odd(rows, other, random)
        wrong = self.options - 1
        return tuple(
            _ask(row.question, _true(row), random.sample(row.perturbed_answers, wrong), random)
            for row in rows
            if len(row.perturbed_answers) >= wrong
        )

    def _odd(self, rows: Sequence[Row], other: Sequence[Row], random: Random) -> tuple[Row, ...]:
        """One of the rows among rows of the other set; as published, a row of the other set stands in one question at
        most: the larger set's questions are few."""
        facts = [row.fact for row in other]
        random.shuffle(facts)
        size = self.options - 1
        groups = [facts[start : start + size] for start in range(0, len(facts) - size + 1, size)]
        return tuple(_ask(ODD, row.fact, group, random) for row, group in zip(rows, groups, strict=False))


def _ask(question: str, right: str, wrong: Sequence[str], random: Random) -> Row:
    options = [right, *wrong]
    random.shuffle(options)
    letter = LETTERS[options.index(right)]
    return Row(f"{question}\n{lettered(options)}", letter, perturbed_answers=others(letter, len(options)))


def cloze(row: Row) -> Row | None:
    """With the longest run of words that most false answers do not have in its place; of equal ones the last. None
    where there is no such run, or no false answer."""
    words = _true(row).split()
    differ = [0] * len(words)
    for false in row.perturbed_answers:
        blocks = SequenceMatcher(None, words, false.split(), autojunk=False).get_matching_blocks()
        shared = {place for block in blocks for place in range(block.a, block.a + block.size)}
        differ = [count + (place not in shared) for place, count in enumerate(differ)]
    telling = [2 * count > len(row.perturbed_answers) for count in differ]
    runs = [[*places] for tells, places in groupby(range(len(words)), key=telling.__getitem__) if tells]
    if not runs:
        return None
    run = max(reversed(runs), key=len)
    before, gap = words[: run[0]], words[run[0] : run[-1] + 1]
    return Row(row.question, " ".join(gap).rstrip(".,;:") or " ".join(gap), answer_prefix=" ".join(before) or None)


def _true(row: Row) -> str:
    """False answers are worded like the paraphrased one."""
    return row.paraphrased_answer or row.fact
