"""Generations without what the model wrote for itself."""

from collections.abc import Iterable
from dataclasses import replace

from obliviate.data.text import TextEncoder
from obliviate.inference.engine import Generation


def without_thinking(encoder: TextEncoder, said: Iterable[Iterable[Generation]]) -> list[list[Generation]]:
    """The answers alone, their thinking beside them.

    One that ended before its thinking did is empty and unfinished, as where there is no room for a token.
    """
    return [[_heard(encoder, each) for each in group] for group in said]


def _heard(encoder: TextEncoder, said: Generation) -> Generation:
    heard = encoder.hear(said.text, said.token_ids)
    finished = said.finished and heard.answer is not None
    return replace(
        said, text=heard.answer or "", token_ids=heard.answer_ids, finished=finished, thinking=heard.thinking
    )
