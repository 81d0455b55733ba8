"""From token ids to text as it grows, where the engine doesn't do it, with the texts that end an answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class GrowingText:
    """One continuation. What may be the beginning of a stop text is held back until that is decided.

    Needs a tokenizer with a Rust backend, which all current model families have.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int], stop: Sequence[str]) -> None:
        self._backend = tokenizer._tokenizer
        # The prompt's end decides whether the first token's leading space is kept.
        self._stream = DecodeStream(ids=list(prompt_ids[-8:]), skip_special_tokens=True)
        self._stop = stop
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Text that is certain now. Sets `stopped` where a stop text ends it."""
        self._held += self._stream.step(self._backend, token) or ""
        found = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def rest(self) -> str:
        """What was held back when the tokens came to an end."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
