"""What a model holds of a fact beside a reference model: per token of the true answer, and in a word."""

from collections.abc import Sequence
from math import log

from obliviate.data.key_facts import says
from obliviate_serve.api import Answer, Change, TokenInfo, TrueAnswer, Verdict


def change(
    true: TrueAnswer,
    answers: Sequence[Answer],
    sayings: Sequence[Sequence[str]],
    reference: TrueAnswer | None,
    factor: float,
) -> Change:
    """`answers`: of the model under the attack; `sayings`: of the fact, none where the prompt tells it; `reference`:
    the same text under the reference model.

    A model holds the fact where its words are more than `factor` times as probable as under the reference, behind the
    same prompt and the answer's own beginning: P(key) > factor P_ref(key), P(key) the product over the key's tokens.
    """
    said = any(says(answer.text, way) for answer in answers for way in sayings) if sayings else None
    more = _difference(true.key_logp, reference.key_logp) if reference is not None else None
    pairs = _aligned(true, reference)
    return Change(
        verdict=_verdict(said, more, factor),
        says=said,
        key_logp=more,
        logp=[_difference(own.logp, other.logp) for own, other in pairs],
        rank=[_difference(own.rank, other.rank) for own, other in pairs],
    )


def _verdict(said: bool | None, more: float | None, factor: float) -> Verdict | None:
    """None where nothing can be told: the prompt tells the fact, or nothing is there to measure it against."""
    if said is None or said:
        return "says" if said else None
    if more is None:
        return None
    return "holds" if more > log(factor) else "gone"


def _aligned(true: TrueAnswer, reference: TrueAnswer | None) -> list[tuple[TokenInfo, TokenInfo]]:
    """Token by token; nothing where the reference cuts the text into other tokens."""
    if reference is None or [each.text for each in true.tokens] != [each.text for each in reference.tokens]:
        return []
    return list(zip(true.tokens, reference.tokens, strict=True))


def _difference(own: float | None, other: float | None) -> float | None:
    return None if own is None or other is None else own - other
