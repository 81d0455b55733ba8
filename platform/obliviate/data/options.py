"""Lettered options: how several answers become one question whose answer is a letter."""

from collections.abc import Sequence

LETTERS = "ABCD"


def lettered(options: Sequence[str]) -> str:
    """A line each."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def others(letter: str, of: int) -> tuple[str, ...]:
    """The first `of` letters but for one."""
    return tuple(each for each in LETTERS[:of] if each != letter)
