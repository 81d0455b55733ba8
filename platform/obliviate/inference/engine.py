"""The one seam to a language model at inference: generate and score. vLLM and Hugging Face implement it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from obliviate.data.text import Encoded
from obliviate.schema import GenerationSpec


@dataclass(frozen=True)
class Generation:
    """One continuation. `token_ids` excludes the end-of-turn token; `finished` is False where the limit cut it off."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True)
class ScoredText:
    """The answer's tokens under the model: log-probabilities in nats, and whether each was the argmax.

    A collapsed model gives NaN; it is kept here as it is, and metrics answer None for such a text.
    """

    logp: tuple[float, ...]
    greedy: tuple[bool, ...]


class Engine(Protocol):
    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        """`sampling.samples` continuations of each prompt (token ids, special tokens included), in the given order.

        A prompt that leaves no room for a single token gives empty, unfinished generations.
        """
        ...

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        """Teacher-forced statistics of each text's answer tokens, in the given order."""
        ...
