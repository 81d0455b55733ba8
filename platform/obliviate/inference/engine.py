"""The one seam to a language model at inference: generate and score. vLLM, Hugging Face and a hosted model's server
implement it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from obliviate.data.text import Encoded
from obliviate.schema import GenerationSpec


@dataclass(frozen=True)
class Generation:
    """One continuation. `token_ids` excludes the end-of-turn token; `finished` is False where the limit cut it off.

    `thinking` is what the model wrote for itself, once it is told apart (obliviate.inference.thinking).
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool
    thinking: str = ""


@dataclass(frozen=True)
class ScoredText:
    """The answer's tokens under the model: log-probabilities in nats, and whether each was the argmax.

    Both are empty where the answer has no token, or a server gave nothing.
    `mean` and `variance` are those of log p(v) under p over the vocabulary at each token, in nats and nats squared,
    `rank` is 1 where no token is likelier; empty where they were not asked for. A collapsed model gives NaN; it is kept
    here as it is, and metrics answer None for such a text.
    """

    logp: tuple[float, ...]
    greedy: tuple[bool, ...]
    mean: tuple[float, ...] = ()
    variance: tuple[float, ...] = ()
    rank: tuple[float, ...] = ()


class Engine(Protocol):
    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        """`sampling.samples` continuations of each prompt (token ids, special tokens included), in the given order.

        A prompt that leaves no room for a single token gives empty, unfinished generations.
        """
        ...

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        """Teacher-forced statistics of each text's answer tokens, in the given order."""
        ...


class WhiteBox(Engine, Protocol):
    """An engine that sees more of the model than its likeliest tokens: Hugging Face does, vLLM does not."""

    def moments(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        """As `score`, with the moments of log p and the rank at each token."""
        ...

    def gradient_norms(self, texts: Sequence[Encoded]) -> list[float | None]:
        """L2 norm of the gradient, in all weights together, of each answer's mean negative log-probability a token.

        None where the answer has no token or the model gives no finite number.
        """
        ...
