"""Control tokens that a user's text spells out: there they are text, and no turn ends or begins with them.

A template's own control tokens and those of a text look alike once the conversation is rendered. So a text's are marked
before: their first character is another, which the tokenizer reads as the first once it has found the control tokens.
"""

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from obliviate.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FIRST_MARK = 0x10FF00  # private use: stands for the first character of a control token that is text


class ControlTokens:
    """`as_text`: whether those in a user's text are text; otherwise they control, as the template's own do."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, as_text: bool) -> None:
        self._tokenizer = tokenizer
        tokenizer("")  # after a call as this one it neither cuts nor pads, whatever its file says
        control = sorted((t.content for t in tokenizer.added_tokens_decoder.values() if t.special), key=len)[::-1]
        self._control = re.compile("|".join(map(re.escape, control))) if control and as_text else None
        firsts = sorted({each[0] for each in control})
        self._marks = {first: chr(FIRST_MARK + place) for place, first in enumerate(firsts)}
        self._marked = re.compile("[" + "".join(self._marks.values()) + "]") if self._control else None

    def mark(self, text: str) -> str:
        """With marks on what would control."""
        if self._control is None:
            return text
        return self._control.sub(lambda found: self._marks[found.group()[0]] + found.group()[1:], text)

    def ids(self, text: str) -> tuple[int, ...]:
        """Of a rendered conversation.

        The library below transformers' tokenizers is asked itself: what they lay around its answer takes as long as it,
        and several texts in one call occupy every core.
        """
        if self._marked is not None and self._marked.search(text):
            found: Any = self._reading
        elif self._tokenizer.is_fast:
            found = self._tokenizer.backend_tokenizer
        else:
            return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
        return tuple(found.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _reading(self) -> "Tokenizer":
        """The tokenizer as one that reads marks: a normaliser sees a text after the control tokens are found in it.

        Raises UserError for a tokenizer of another library, which has none.
        """
        from tokenizers import Tokenizer

        if not self._tokenizer.is_fast:
            raise UserError(
                "model.control_tokens: text: a text spells a control token, which this tokenizer cannot read as text; "
                "take it out of the text, or set control"
            )
        state = json.loads(self._tokenizer.backend_tokenizer.to_str())
        for token in state["added_tokens"]:
            token["normalized"] = token["normalized"] and not token["special"]  # else it is found after the normaliser
        unmark = [
            {"type": "Replace", "pattern": {"String": mark}, "content": first} for first, mark in self._marks.items()
        ]
        own = [] if state["normalizer"] is None else [state["normalizer"]]
        state |= {
            "normalizer": {"type": "Sequence", "normalizers": [*unmark, *own]},
            "truncation": None,
            "padding": None,
        }
        found: Tokenizer = Tokenizer.from_str(json.dumps(state))
        return found
