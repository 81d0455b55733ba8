"""Control tokens that a user's text spells out: there they are text, and no turn ends or begins with them.

A template's own control tokens and those of a text look alike once the conversation is rendered. So a text's are marked
before, and the rendered conversation is tokenised piece by piece where it holds marks.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_MARK = 0x10FF00  # private use: stands for the first character of a control token that is text


class ControlTokens:
    """`as_text`: whether those in a user's text are text; otherwise they control, as the template's own do."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, as_text: bool) -> None:
        self._tokenizer = tokenizer
        control = sorted((t.content for t in tokenizer.added_tokens_decoder.values() if t.special), key=len)[::-1]
        self._control = re.compile("|".join(map(re.escape, control))) if control and as_text else None
        firsts = sorted({each[0] for each in control})
        self._marks = {first: chr(FIRST_MARK + place) for place, first in enumerate(firsts)}
        self._firsts = str.maketrans({mark: first for first, mark in self._marks.items()})
        self._marked = re.compile("[" + "".join(self._marks.values()) + "]") if self._marks else None

    def mark(self, text: str) -> str:
        """With marks on what would control."""
        if self._control is None:
            return text
        return self._control.sub(lambda found: self._marks[found.group()[0]] + found.group()[1:], text)

    def ids(self, text: str) -> tuple[int, ...]:
        """Of a rendered conversation."""
        if self._control is None or self._marked is None or not self._marked.search(text):
            return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
        found: list[int] = []
        place = 0
        for control in (*self._control.finditer(text), None):
            piece = text[place : control.start() if control else len(text)].translate(self._firsts)
            if piece:
                found += self._tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids
            if control:
                found.append(self._tokenizer.convert_tokens_to_ids(control.group()))
                place = control.end()
        return tuple(found)
