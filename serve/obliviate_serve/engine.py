"""The one seam to a model while it answers clients: an asynchronous stream of events for one prompt.

vLLM and Hugging Face implement it; tests put a fake in its place. Log-probabilities and entropies are in nats, of the
model's distribution before temperature and top_p.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol


@dataclass(frozen=True)
class Chat:
    """(role, text) of each message; the model's chat template lays them out."""

    messages: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Quiz:
    """A question as evaluation asks it. `prefix` begins the model's answer; `answer` follows it, to be scored."""

    question: str
    prefix: str = ""
    answer: str | None = None


Finish = Literal["stop", "length"]
Prompt = str | tuple[int, ...] | Chat | Quiz  # a text, token ids, or what a template is laid around


@dataclass(frozen=True)
class Sampling:
    """`max_tokens` None: all the room there is; 0: the prompt alone, which then must be echoed."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # None: none; else of the token itself and of this many most likely ones
    entropy: bool = False
    echo: bool = False  # the prompt's tokens too
    stream: bool = False  # events as they come; else an engine may send all at once


class Token(NamedTuple):
    """`logp` is None where there is none (a prompt's first token) or the model gives NaN; likewise `entropy`.

    Text of a token that is a part of a character only is the replacement character.
    """

    text: str
    logp: float | None
    entropy: float | None
    alternatives: tuple[tuple[str, float], ...]  # the most likely first


class Prompted(NamedTuple):
    """The first event. `tokens` and `text`: the prompt's, where it is to be echoed."""

    prompt_tokens: int
    text: str = ""
    tokens: tuple[Token, ...] = ()


class Delta(NamedTuple):
    """What continuation number `choice` has grown by; its text excludes stop texts and the end of turn.

    `tokens` where log-probabilities are asked for, the end of turn included.
    """

    choice: int
    text: str
    new_tokens: int
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None


Event = Prompted | Delta


class Opening(NamedTuple):
    """The first two events as one message between processes: the second is what a client waits for."""

    prompted: Prompted
    first: Delta


class ServingEngine(Protocol):
    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    def stream(self, prompt_ids: tuple[int, ...], sampling: Sampling, adapter: str | None) -> AsyncIterator[Event]:
        """Prompted, then deltas until each of the `n` continuations has finished. `sampling.max_tokens` is a number.

        Raises EngineDiedError where the engine is gone. Closing the iterator ends the work.
        """
        ...

    @property
    def dead(self) -> bool:
        """Whether it will never answer again."""
        ...

    def close(self) -> None:
        """Give everything back; nothing is under way any more. Called from any thread."""
        ...
