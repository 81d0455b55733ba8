"""Of each forget row, whether it needs unlearning, and why: what forget-set filtering decides and reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from obliviate.data.rows import Row
from obliviate.errors import UserError

if TYPE_CHECKING:
    from obliviate.options import ForgetFilterSpec

JUDGED = "forget_filter.jsonl"  # every forget row with its figures and the verdict
Scored = tuple[int, float]  # tokens of an answer, and their mean log-probability


@dataclass(frozen=True)
class Judged:
    """A forget row, and why it is trained on or not."""

    question: str
    answer: str
    nearest: str  # question (of a plain text, the text) of the nearest retain row
    cosine: float
    model_logp: float | None  # nats per token of the answer; None where the model gives no number
    reference_logp: float | None
    filtered: bool


def judge(
    spec: "ForgetFilterSpec",
    rows: Sequence[Row],
    near: Sequence[tuple[str, float]],
    model: Sequence[Scored],
    reference: Sequence[Scored],
) -> list[Judged]:
    """Filtered is a row with cosine >= `similarity` and model_logp - reference_logp <= `gap`; unknown is not filtered.

    Raises UserError where the two models cut an answer into different tokens: then the gap means nothing.
    """
    judged = []
    for row, (text, cosine), (tokens, mine), (others, theirs) in zip(rows, near, model, reference, strict=True):
        if tokens != others:
            raise UserError(
                f"forget_filter.reference: cuts the answer {row.answer[:60]!r} into {others} tokens and the model into "
                f"{tokens}; give a reference with the model's tokenizer and template"
            )
        known = isfinite(mine) and isfinite(theirs)
        filtered = known and cosine >= spec.similarity and mine - theirs <= spec.gap
        logps = (mine if isfinite(mine) else None, theirs if isfinite(theirs) else None)
        judged.append(Judged(row.question, row.answer, text, cosine, *logps, filtered))
    return judged


def line(judged: Mapping[str, object]) -> str:
    """One filtered row, for terminal and model card."""
    return (
        f"{judged['question'] or judged['answer']} (cosine {judged['cosine']:.2f} to: {judged['nearest']}; "
        f"log-probability {judged['model_logp']:.2f}, of the reference {judged['reference_logp']:.2f})"
    )
