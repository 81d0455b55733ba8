"""The one seam to a model while it answers clients: an asynchronous stream of events for one prompt.

vLLM and Hugging Face implement it; tests put a fake in its place. Log-probabilities and entropies are in nats, of the
model's distribution before temperature and top_p.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol


@dataclass(frozen=True)
class Chat:
    """(role, text) of each message, and the names of those who said them; the model's chat template lays them out.

    `begun`: the last message is the beginning of the answer.
    """

    messages: tuple[tuple[str, str], ...]
    names: tuple[str | None, ...] = ()
    begun: bool = False


@dataclass(frozen=True)
class Bare:
    """A text without the tokens that the tokenizer puts around it."""

    text: str


@dataclass(frozen=True)
class Quiz:
    """A question as evaluation asks it. `prefix` begins the model's answer; `answer` follows it, to be scored.

    `key`: ranges of the answer's characters whose tokens are told. `history`: role and text of what was said before, a
    system message first.
    """

    question: str
    prefix: str = ""
    answer: str | None = None
    key: tuple[tuple[int, int], ...] = ()
    history: tuple[tuple[str, str], ...] = ()


Finish = Literal["stop", "length"]
Prompt = str | tuple[int, ...] | Bare | Chat | Quiz  # a text, token ids, or what a template is laid around


@dataclass(frozen=True)
class Sampling:
    """`max_tokens` None: all the room there is; 0: the prompt alone, scored where it is echoed, else only Rendered.

    Log-probabilities are the model's own: before temperature, top_p, penalties and biases. `json_schema` alone changes
    them, because an engine counts no tokens that it forbids.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False  # goes on behind the end of turn
    presence_penalty: float = 0.0  # nats off every token that the answer has already
    frequency_penalty: float = 0.0  # nats off a token for each time that the answer has it
    logit_bias: tuple[tuple[int, float], ...] = ()  # token -> nats on it
    json_schema: str | None = None  # the answer is JSON of this schema
    logprobs: int | None = None  # None: none; else of the token itself and of this many most likely ones
    entropy: bool = False
    echo: bool = False  # the prompt's tokens too
    echo_from: int = 0  # the first of them that is told
    alone: bool = False  # while the model answers nothing else, whose company would move the last digits
    stream: bool = False  # events as they come; else an engine may send all at once


class Token(NamedTuple):
    """`logp` is None where there is none (a prompt's first token) or the model gives NaN; likewise `entropy`.

    Text of a token that is a part of a character only is the replacement character. `rank`: how many tokens were at
    least as likely there, itself included.
    """

    text: str
    logp: float | None
    entropy: float | None
    alternatives: tuple[tuple[str, float], ...]  # the most likely first
    rank: int | None = None


class Prompted(NamedTuple):
    """The first event. `tokens` and `text`: the prompt's, as far as it is to be echoed. `key`: places among these
    tokens of those that write a quiz's key."""

    prompt_tokens: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    key: tuple[int, ...] = ()


class Delta(NamedTuple):
    """What continuation number `choice` has grown by; its text excludes stop texts and the end of turn.

    `tokens` where log-probabilities are asked for, the end of turn included.
    """

    choice: int
    text: str
    new_tokens: int
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None


class Rendered(NamedTuple):
    """A prompt's tokens and their text, and how many tokens the model takes; the only event."""

    ids: tuple[int, ...]
    text: str
    context: int


Event = Prompted | Delta | Rendered


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
    def guides(self) -> bool:
        """Whether it can keep an answer to a JSON schema."""
        ...

    @property
    def dead(self) -> bool:
        """Whether it will never answer again."""
        ...

    def close(self) -> None:
        """Give everything back; nothing is under way any more. Called from any thread."""
        ...
