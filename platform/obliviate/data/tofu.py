"""TOFU: two hundred fictitious authors with twenty questions each (Maini et al. 2024, arXiv:2401.06121)."""

from dataclasses import replace
from random import Random
from typing import Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap
from obliviate.data.source import folder_of, reader
from obliviate.errors import UserError
from obliviate.schema import Spec

QUESTIONS = 20  # of each author, one after the other
FIRST_TASK = "1"
# Split -> the retain set that TOFU publishes for it, and the remainder that the continual cut keeps in its place.
RETAIN_OF = {
    "forget01": ("retain99", "retain90"),
    "forget05": ("retain95", "retain50"),
    "forget10": ("retain90", "retain10"),
}
HOLDOUT_OF = {"forget01": "holdout01", "forget05": "holdout05", "forget10": "holdout10"}


class TofuFiles(Spec):
    """Where TOFU's files lie, and how much of them is trained and measured on."""

    type: str
    source: str = "locuslab/TOFU"  # hub id or local folder
    split: Literal["forget01", "forget05", "forget10"] = "forget10"
    retain_limit: int | None = Field(default=None, ge=1)  # rows to train on; None: all 3960, 3800 or 3600
    # Rows measured, from the beginning, as published results do
    eval_forget_limit: int | None = Field(default=300, ge=1)
    eval_retain_limit: int | None = Field(default=300, ge=1)
    eval_real_limit: int | None = Field(default=None, ge=1)  # of the real authors, and of the world facts
    seed: int = 0


class TofuData(TofuFiles, Data):
    """One of TOFU's splits, from the hub or from a local folder of its files (`forget01.json`, ...).

    A folder may hold TOFU as published, or in the cut for continual unlearning of "A Closer Look" (arXiv:2410.08109),
    where a forget file has several tasks: the first is TOFU's own forget set, and the others with a fixed remainder
    are its retain set.

    The retain set is measured on TOFU's `retain_perturbed`, whose items are all in the retain set. So that a model is
    measured on what it was trained to keep, a `retain_limit` takes these items first (as many as are measured), and
    fills up with others drawn by `seed`.
    """

    type: Literal["tofu"] = "tofu"
    # Whether TOFU's holdout authors are measured, for membership inference; None: where the source has them.
    holdout: bool | None = None
    authors: tuple[str, ...] = ()  # names of those to forget, in its order, for methods that mark whom they hide

    def load(self) -> Corpus:
        """Raises UserError for a missing file, where the hub does not answer, and for other than one name an author."""
        read = reader(self.source)
        forget, others = _first_task(read(self.split))
        forget = self._named(forget)
        published, remainder = RETAIN_OF[self.split]
        folder = folder_of(self.source)
        is_cut = folder is not None and not (folder / f"{published}.json").is_file()
        retain = (*read(remainder), *others) if is_cut else read(published)
        retain, warnings = without_overlap(forget, retain)
        measured = read("retain_perturbed")[: self.eval_retain_limit]
        if self.retain_limit is not None:
            measured = measured[: self.retain_limit]
            retain = slice_of(retain, measured, self.retain_limit, self.seed)
        asked = self._named(_first_task(read(f"{self.split}_perturbed"))[0])
        sets = [
            ("forget", Role.FORGET, asked[: self.eval_forget_limit]),
            ("retain", Role.RETAIN, measured),
            ("real_authors", Role.REAL_AUTHORS, read("real_authors_perturbed")[: self.eval_real_limit]),
            ("world_facts", Role.WORLD_FACTS, read("world_facts_perturbed")[: self.eval_real_limit]),
        ]
        if self._has_holdout if self.holdout is None else self.holdout:
            holdout = read(HOLDOUT_OF[self.split])[: self.eval_forget_limit]
            sets.append(("holdout", Role.HOLDOUT, holdout))
        return Corpus(forget, retain, tuple(EvaluationSet(*s) for s in sets), warnings)

    def _named(self, forget: tuple[Row, ...]) -> tuple[Row, ...]:
        if not self.authors:
            return forget
        if len(self.authors) * QUESTIONS != len(forget):
            raise UserError(
                f"data.authors: {len(self.authors)} names for the {len(forget) // QUESTIONS} authors of {self.split}; "
                "give one of each"
            )
        return tuple(replace(row, entity=self.authors[index // QUESTIONS]) for index, row in enumerate(forget))

    @property
    def _has_holdout(self) -> bool:
        """A folder may be of an older copy; the hub has it."""
        folder = folder_of(self.source)
        return folder is None or (folder / f"{HOLDOUT_OF[self.split]}.json").is_file()


def _first_task(rows: tuple[Row, ...]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """TOFU's own forget set (files as published have no tasks), and the rows of the other tasks."""
    own = tuple(row for row in rows if row.task_id in (None, FIRST_TASK))
    return own, tuple(row for row in rows if row.task_id not in (None, FIRST_TASK))


def slice_of(retain: tuple[Row, ...], measured: tuple[Row, ...], size: int, seed: int) -> tuple[Row, ...]:
    """`size` rows of the retain set, in its order: those that are measured, and others drawn at random."""
    keys = {row.key for row in measured}
    others = [index for index, row in enumerate(retain) if row.key not in keys]
    first = [index for index, row in enumerate(retain) if row.key in keys]
    drawn = Random(seed).sample(others, min(max(size - len(first), 0), len(others)))
    return tuple(retain[index] for index in sorted(first + drawn))
