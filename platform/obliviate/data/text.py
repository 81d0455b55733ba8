"""Question and answer to token ids, with an exact boundary between them.

The ids are those of the conversation as the model's own template renders it, up to and including the end of turn: what
a model is trained and scored on is what it sees when it generates, token for token. A tokenizer may put other tokens at
the end of a text than in its middle (a space that belongs to the answer's first word, say). So the prompt is what the
conversation and the text before the answer have in common, from their beginning on; what a template writes between the
assistant's header and the answer, such as an empty thinking block, belongs to it, and white space to the answer.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from obliviate.data.chat import ANSWER, BUILT_IN, RAW, Chat, History, Messages, conversation, in_common
from obliviate.data.control import ControlTokens
from obliviate.data.rows import Row
from obliviate.data.thinking import split
from obliviate.errors import UserError
from obliviate.guardrail import guarded_question, guarded_system_prompt
from obliviate.schema import GuardrailSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PART_OF_A_CHARACTER = "\ufffd"  # what tokenizers decode its first bytes to
PROMPTS_KEPT = 4096  # whose ids are remembered: one question has several answers


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and answer; the answer's last token is the end-of-turn token, unless it was `cut` off."""

    input_ids: tuple[int, ...]
    prompt_length: int
    cut: bool = False

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.prompt_length]

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return self.input_ids[self.prompt_length :]


class Heard(NamedTuple):
    """What a model said, its thinking apart. `answer` is None where it ended before its thinking did."""

    thinking: str
    answer: str | None
    answer_ids: tuple[int, ...]


class TextEncoder:
    """Renders and tokenises questions and answers for one model.

    `chat_template`: None takes the tokenizer's own; "plain" lays out Question/Answer lines for base models; "raw" adds
    nothing, and the answer continues the question after a space; anything else is Jinja text, the path of a file of it
    or the name of one of the tokenizer's templates. `template_arguments` and `template_date` (ISO; for templates that
    ask for today's) are handed to it. The empty question stands for a plain text, which is never laid out as a chat: it
    follows the beginning-of-sequence token where the tokenizer adds one; where it adds none, the text's first token is
    the prompt, because nothing predicts it. A row's `answer_prefix` is what the assistant's message begins with, and
    belongs to the prompt; the answer follows it behind a space. A `guardrail` is put before what it does not know: into
    the system prompt, or into each question; a plain text asks nothing, and is left alone. What spells a control token
    in a text is text, unless `control_tokens` says that it is meant.

    Raises UserError as Chat does, and where nothing ends an answer.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        chat_template: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        template_date: str | None = None,
        system_prompt: str | None = None,
        guardrail: GuardrailSpec | None = None,
        control_tokens: Literal["text", "control"] = "text",
        max_length: int = 512,
    ) -> None:
        self._tokenizer = tokenizer
        self._system_prompt = guarded_system_prompt(guardrail, system_prompt)
        self._guardrail = guardrail
        self._max_length = max_length
        first = tokenizer("a").input_ids[:1]
        self._bos = tuple(first) if first == [tokenizer.bos_token_id] else ()
        self._lead = self._bos if chat_template in BUILT_IN else ()  # other templates write it themselves
        self._raw = chat_template == RAW
        self._control = ControlTokens(tokenizer, as_text=control_tokens == "text")
        self._chat = Chat(tokenizer, chat_template, template_arguments or {}, template_date, self._system_prompt)
        self._head_ids = lru_cache(PROMPTS_KEPT)(self._control.ids)
        self._learn_boundaries()

    def _learn_boundaries(self) -> None:
        """What every conversation has between prompt and answer, and behind the answer."""
        messages = conversation(self._system_prompt, "Who?")
        before, answer, after = self._chat.lay(messages, ANSWER)
        beginning = self._chat.render(messages, add_generation_prompt=True)
        blank = before.startswith(beginning) and not before[len(beginning) :].strip()
        self._gap = before[len(beginning) :] if blank else ""  # white space that the answer begins with
        self._spaces = len(beginning) - len(beginning.rstrip(" "))  # that the template ends a prompt with
        begun, ids = (self._control.ids(text) for text in (before + answer, before + answer + after))
        self._around = len(ids) + len(self._lead)  # tokens of the template, at most
        self._trailing, self._end_of_turn_id = self._find_end(ids, in_common(begun, ids))

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return self._tokenizer

    @property
    def end_of_turn_id(self) -> int:
        return self._end_of_turn_id

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self._max_length

    @property
    def asks_for_date(self) -> bool:
        """Whether the template asks for today's date, and gets a fixed one."""
        return self._chat.asks_for_date

    def prompt(self, question: str, history: History = (), prefix: str | None = None) -> tuple[int, ...]:
        """Token ids up to where the answer begins: those of `encode`, but for answers that the tokenizer joins to the
        prompt otherwise than it does a word.

        Raises UserError for a plain text where the tokenizer adds no beginning-of-sequence token: its prompt is its own
        first token, which only `encode` knows.
        """
        if not question:
            if not self._bos:
                raise UserError(
                    "a plain text has no prompt to generate from: this tokenizer adds no beginning-of-sequence token; "
                    "give the row a 'question'"
                )
            return self._bos
        return self._reply_prompt(self._messages(question, history), prefix)

    def reply_prompt(self, messages: Messages, prefix: str | None = None) -> tuple[int, ...]:
        """Token ids up to where the assistant's answer to the messages begins, or up to the end of the `prefix` that it
        begins with, without spaces at the end, which most tokenizers join to the answer's first word.

        Raises UserError where the template refuses the messages.
        """
        return self._reply_prompt(self._marked(messages), prefix)

    def _reply_prompt(self, messages: Messages, prefix: str | None) -> tuple[int, ...]:
        begun = self._rendered(messages) if prefix is None else self._begun(self._chat.before(messages), prefix)
        return self._lead + self._control.ids(begun)

    def render(self, messages: Messages, *, begun: bool = False) -> str:
        """The text that `reply_prompt` is of; `begun`: the last message is what the answer begins with."""
        if begun:
            before, written, _ = self._chat.lay(messages[:-1], messages[-1]["content"])
            return before + written
        return self._rendered(messages)

    def _rendered(self, messages: Messages) -> str:
        head = self._head(self._chat.before(messages), messages[-1]["content"])
        return head.removesuffix(" " * self._spaces)

    def encode(self, question: str, answer: str, history: History = (), prefix: str | None = None) -> Encoded:
        """Prompt, answer and end of turn, cut at the end to `max_length` tokens; `history` is what was said before,
        `prefix` what the answer stands behind.

        Raises UserError where the prompt leaves no room for a single token of the answer.
        """
        input_ids, prompt_length = self._whole(question, answer, history, prefix)
        if prompt_length >= self._max_length:
            raise UserError(
                f"model.max_length: {self._max_length}: the prompt of the question {question!r} alone has "
                f"{prompt_length} tokens; raise model.max_length or shorten the question"
            )
        return Encoded(input_ids[: self._max_length], prompt_length, len(input_ids) > self._max_length)

    def encode_row(self, row: Row) -> Encoded:
        return self.encode(*row.saying(row.answer))

    def places(self, text: Encoded, answer: str, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Which of the answer's tokens write any part of these ranges of its characters, cut-off ones aside.

        Of several tokens that write one character, all. What the tokenizer does not know shifts what follows.
        """
        found, read = [], 0
        for place in range(len(text.answer_ids)):
            ids = list(text.answer_ids[: place + 1])
            decoded: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            written = decoded.lstrip() if answer[:1].strip() else decoded
            whole = len(written.rstrip(PART_OF_A_CHARACTER))
            ends = whole + (len(written) > whole or whole == read)
            if any(read < end and ends > start for start, end in spans):
                found.append(place)
            read = whole
        return tuple(found)

    def cuts(self, question: str, answer: str, history: History = (), prefix: str | None = None) -> bool:
        """Whether `encode` leaves out the answer's end."""
        asked = guarded_question(self._guardrail, question)
        if not history and len(f"{asked}{prefix} {answer}".encode()) + self._around < self._max_length:
            return False  # no token is shorter than a byte
        return len(self._whole(question, answer, history, prefix)[0]) > self._max_length

    def beginning(self, text: str, tokens: int) -> str:
        """As many tokens of a text, the beginning of sequence counted where the tokenizer adds one."""
        kept: str = self._tokenizer.decode(self._tokenizer(text).input_ids[:tokens], skip_special_tokens=True)
        return kept

    def hear(self, text: str, token_ids: Sequence[int]) -> Heard:
        """What a model said, end of turn excluded, without the thinking that its template knows. `text`: the ids'."""
        ids = tuple(token_ids)
        thinking, answer = split(self._tokenizer.decode(list(ids)), self._chat.marks) if self._chat.marks else ("", "")
        if answer is None:
            return Heard(thinking, None, ())
        if not thinking:
            return Heard("", text.removeprefix(self._gap), ids)
        closed = bisect_left(range(len(ids)), True, lo=1, key=lambda end: self._closes(ids[:end]))
        said: str = self._tokenizer.decode(list(ids[closed:]), skip_special_tokens=True)
        return Heard(thinking.strip(), said.lstrip(), ids[closed:])

    def _closes(self, ids: tuple[int, ...]) -> bool:
        """Whether the thinking that is under way ends with these."""
        thinking, answer = split(self._tokenizer.decode(list(ids)), self._chat.marks)
        return bool(thinking) and answer is not None

    def _whole(self, question: str, answer: str, history: History, prefix: str | None) -> tuple[tuple[int, ...], int]:
        """Prompt, answer and end of turn, of whatever length, and how many of them are the prompt's: one at least."""
        if not question:
            return (*self._bos, *self._control.ids(self._control.mark(answer)), self._end_of_turn_id), 1
        said = answer if prefix is None else f"{prefix.rstrip(' ')} {answer}"
        before, written, after = self._chat.lay(self._messages(question, history), self._control.mark(said))
        whole = before + written + ("" if self._trailing is None else after)
        head = self._head(before, question) if prefix is None else self._begun(before, prefix)
        head_ids, ids = self._head_ids(head), self._control.ids(whole)
        ids = (*ids, self._end_of_turn_id) if self._trailing is None else ids[: len(ids) - self._trailing]
        return self._lead + ids, len(self._lead) + in_common(head_ids, ids) or 1

    def _begun(self, before: str, prefix: str) -> str:
        """Without spaces at the end, which most tokenizers join to the answer's first word."""
        return before + self._control.mark(prefix).rstrip(" ")

    def _head(self, before: str, question: str) -> str:
        """Without the white space that the answer begins with."""
        own = self._raw and question[-1:].isspace()
        return before if own else before.removesuffix(self._gap)

    def _messages(self, question: str, history: History) -> list[dict[str, str]]:
        """A history that brings a system message keeps it, but behind a guardrail's."""
        own = self._guardrail is None and any(role == "system" for role, _ in history)
        question = guarded_question(self._guardrail, question)
        return self._marked(conversation(None if own else self._system_prompt, question, history))

    def _marked(self, messages: Messages) -> list[dict[str, str]]:
        return [{**message, "content": self._control.mark(message["content"])} for message in messages]

    def _find_end(self, ids: tuple[int, ...], behind: int) -> tuple[int | None, int]:
        """How many tokens follow what ends an answer, and that: the first special token that the template writes from
        place `behind` on; where it writes none, None and the end of sequence."""
        added = {id_: token.special for id_, token in self._tokenizer.added_tokens_decoder.items()}
        for known in ({id_ for id_, special in added.items() if special}, set(added)):
            places = [i for i in range(behind, len(ids)) if ids[i] in known - {self._tokenizer.unk_token_id}]
            if places:
                return len(ids) - places[0] - 1, ids[places[0]]
        eos: int | None = self._tokenizer.eos_token_id
        if eos is None:
            raise UserError(
                "model.chat_template: no token ends an answer, and the tokenizer has no end-of-sequence token; "
                "set its eos_token"
            )
        return None, eos
