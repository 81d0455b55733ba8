"""BLUR's combined queries: what to forget and what to keep in one prompt (Hu et al. 2025, arXiv:2506.15699)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.fictitious import FictitiousData
from obliviate.data.files import FilesData
from obliviate.data.real_world import RealWorldData
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.tofu import TofuData
from obliviate.errors import UserError

ORDERS = ("forget_first", "retain_first")


class BlurData(Data):
    """Each question of the forget sets of `of` with one of its retain sets behind it, and with the same before it.

    A combined question stands in two sets, once with each answer: it is generated for once. What is trained on is
    that of `of`.
    """

    type: Literal["blur"] = "blur"
    of: Annotated[TofuData | FilesData | FictitiousData | RealWorldData, Field(discriminator="type")] = TofuData()
    eval_limit: int | None = Field(default=None, ge=1)  # pairs, from the beginning of the forget sets
    seed: int = 0  # of which question to keep stands beside which to forget

    def load(self) -> Corpus:
        """Raises UserError as `of` does, and where it has no question to forget or none to keep."""
        corpus = self.of.load()
        forget, retain = (
            [row for each in corpus.evaluation if each.role is role for row in each.rows if row.question]
            for role in (Role.FORGET, Role.RETAIN)
        )
        if not forget or not retain:
            lacking = "retain" if forget else "forget"
            raise UserError(f"data.of: no question in the {lacking} sets to combine; give one at least")
        pairs = list(_pairs(forget[: self.eval_limit], retain, Random(self.seed)))
        sets = [
            EvaluationSet("forget", Role.FORGET, tuple(dict.fromkeys(forgotten for forgotten, _ in pairs))),
            EvaluationSet("retain", Role.RETAIN, tuple(dict.fromkeys(kept for _, kept in pairs))),
        ]
        sets += [
            EvaluationSet(f"{order}_{role}", role, tuple(_combined(*pair, order, role) for pair in pairs))
            for order in ORDERS
            for role in (Role.FORGET, Role.RETAIN)
        ]
        return Corpus(corpus.forget, corpus.retain, tuple(sets), corpus.warnings)


def _pairs(forget: Sequence[Row], retain: Sequence[Row], random: Random) -> Iterator[tuple[Row, Row]]:
    """Each retain row is taken once before any is taken again."""
    drawn: list[Row] = []
    for row in forget:
        drawn = drawn or random.sample(retain, len(retain))
        yield row, drawn.pop()


def _combined(forgotten: Row, kept: Row, order: str, role: Role) -> Row:
    first, second = (forgotten, kept) if order == "forget_first" else (kept, forgotten)
    answered = forgotten if role is Role.FORGET else kept
    return replace(answered, question=f"{first.question} {second.question}", paraphrased_question=None)
