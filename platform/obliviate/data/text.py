"""Question and answer to token ids, with an exact boundary between them.

The prompt is rendered by the chat template up to where the assistant's turn begins, the answer is tokenised on its own
and appended, and the end-of-turn token closes it: what a model is trained and scored on is what it sees when it
generates, token for token.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from obliviate import storage
from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.guardrail import guarded_question, guarded_system_prompt
from obliviate.schema import GuardrailSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN, RAW = "plain", "raw"
SENTINEL = "OBLIVIATE"  # an answer to look for in a rendered chat; templates strip white space, so it has none


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and answer; the answer's last token is the end-of-turn token (unless it was cut off)."""

    input_ids: tuple[int, ...]
    prompt_length: int

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.input_ids[: self.prompt_length]

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return self.input_ids[self.prompt_length :]


class TextEncoder:
    """Renders and tokenises questions and answers for one model.

    `chat_template`: None takes the tokenizer's own; "plain" lays out Question/Answer lines for base models; "raw" adds
    nothing, and the answer continues the question after a space; anything else is Jinja text or the path of a file of
    it. The empty question stands for a plain text, which is never laid out as a chat: it follows the
    beginning-of-sequence token where the tokenizer adds one; where it adds none, the text's first token is the prompt,
    because nothing predicts it. A `guardrail` is put before what it does not know: into the system prompt, or into each
    question; a plain text asks nothing, and is left alone.

    Raises UserError where the tokenizer has no template and none is given, and for a template that cannot be read or
    does not render a user's and an assistant's message.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        chat_template: str | None = None,
        system_prompt: str | None = None,
        guardrail: GuardrailSpec | None = None,
        max_length: int = 512,
    ) -> None:
        self._tokenizer = tokenizer
        self._system_prompt = guarded_system_prompt(guardrail, system_prompt)
        self._guardrail = guardrail
        self._max_length = max_length
        self._raw = chat_template == RAW
        self._template = None if chat_template in (PLAIN, RAW) else _template(tokenizer, chat_template)
        first = tokenizer("a").input_ids[:1]
        self._bos = tuple(first) if first == [tokenizer.bos_token_id] else ()
        # Some tokenizers put a space before every text by themselves; an answer that brings its own would have two.
        joined = self._ids("Answer:") + self._ids("a") == self._ids("Answer: a")
        self._plain_space = "" if joined else " "
        self._end_of_turn_id = self._find_end_of_turn()

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return self._tokenizer

    @property
    def end_of_turn_id(self) -> int:
        return self._end_of_turn_id

    def prompt(self, question: str) -> tuple[int, ...]:
        """Token ids up to where the answer begins: those of `encode`, whatever the answer.

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
        question = guarded_question(self._guardrail, question)
        if self._template is None:
            head = "" if self._system_prompt is None else f"{self._system_prompt}\n\n"
            layout = question if self._raw else f"Question: {question}\nAnswer:"
            return self._bos + self._ids(head + layout)
        return tuple(
            self._tokenizer.apply_chat_template(
                self._messages(question),
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        )

    def encode(self, question: str, answer: str) -> Encoded:
        """Prompt, answer and end of turn, cut at the end to `max_length` tokens.

        Raises UserError where the prompt leaves no room for a single token of the answer.
        """
        prompt_ids, answer_ids = self._whole(question, answer)
        if len(prompt_ids) >= self._max_length:
            raise UserError(
                f"model.max_length: {self._max_length}: the prompt of the question {question!r} alone has "
                f"{len(prompt_ids)} tokens; raise model.max_length or shorten the question"
            )
        return Encoded((*prompt_ids, *answer_ids)[: self._max_length], len(prompt_ids))

    def encode_row(self, row: Row) -> Encoded:
        return self.encode(row.question, row.answer)

    def cuts(self, row: Row) -> bool:
        """Whether `encode_row` leaves out the row's end."""
        return sum(map(len, self._whole(row.question, row.answer))) > self._max_length

    def _whole(self, question: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt, and answer with the end of turn, of whatever length."""
        if question:
            prompt_ids = self.prompt(question)
            space = self._plain_space if self._template is None else ""
            answer_ids = self._ids(space + answer)
        else:
            text_ids = self._bos + self._ids(answer)
            prompt_ids, answer_ids = text_ids[:1], text_ids[1:]
        return prompt_ids, (*answer_ids, self._end_of_turn_id)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _messages(self, question: str) -> list[dict[str, str]]:
        system = [] if self._system_prompt is None else [{"role": "system", "content": self._system_prompt}]
        return [*system, {"role": "user", "content": question}]

    def _find_end_of_turn(self) -> int:
        """The first special token that the template writes after an assistant's message, else end of sequence."""
        special = {id_ for id_, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        closing = [id_ for id_ in self._ids(self._rendered_after_answer()) if id_ in special]
        if closing:
            return closing[0]
        eos: int | None = self._tokenizer.eos_token_id
        if eos is None:
            raise UserError(
                "model.chat_template: no token ends an answer, and the tokenizer has no end-of-sequence token; "
                "set its eos_token"
            )
        return eos

    def _rendered_after_answer(self) -> str:
        if self._template is None:
            return ""
        messages = [*self._messages("Who?"), {"role": "assistant", "content": SENTINEL}]
        try:
            text: str = self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False)
        except TemplateError as error:
            reason = str(error).partition("\n")[0]
            hint = " without model.system_prompt" if self._system_prompt is not None else ""
            raise UserError(f"model.chat_template: {reason}; mend the template, or try it{hint}") from error
        _, found, after = text.rpartition(SENTINEL)
        if not found:
            raise UserError("model.chat_template: does not render the assistant's messages; write their content")
        return after


def _template(tokenizer: "PreTrainedTokenizerBase", chosen: str | None) -> str:
    """Jinja text: the tokenizer's own, as given, or read from the file that `chosen` names."""
    if chosen is None:
        if tokenizer.chat_template is None:
            raise UserError(
                "model.chat_template: the tokenizer has no chat template; "
                "set model.chat_template: plain (a base model), or give a Jinja file"
            )
        own: str = tokenizer.get_chat_template()
        return own
    if "{{" in chosen or "{%" in chosen:
        return chosen
    path = storage.fetch(storage.local(chosen).expanduser())
    if not path.is_file():
        raise UserError(f"model.chat_template: {chosen}: no such file; give plain, a .jinja file, or Jinja text")
    return path.read_text(encoding="utf-8")
