"""From what a client sends to token ids, by the model's own template; questions as in evaluation."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.guardrail import guarded_question, guarded_system_prompt
from obliviate.models import text_encoder
from obliviate.schema import ModelSpec
from obliviate_serve.engine import Bare, Chat, Prompt, Quiz
from obliviate_serve.errors import ApiError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Renderer:
    """Raises UserError, as TextEncoder does, for a model without a template."""

    def __init__(self, model: ModelSpec, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._encoder = text_encoder(model.model_copy(update={"max_length": 2**31}), tokenizer)
        self._guardrail = model.guardrail
        self._own_system_prompt = model.system_prompt

    @property
    def guarded(self) -> bool:
        return self._guardrail is not None

    def __call__(self, prompt: Prompt) -> tuple[tuple[int, ...], int]:
        """Token ids, and how many of them come before the answer that is to be scored (all, without one)."""
        match prompt:
            case Chat():
                ids = self._chat(prompt)
            case Quiz():
                return self._quiz(prompt)
            case _ if self._guardrail is not None and not isinstance(prompt, Chat | Quiz):
                raise ApiError(
                    400,
                    "this model is behind a guardrail, which a raw prompt would pass by; send a chat",
                    param="prompt",
                )
            case str():
                ids = tuple(self._tokenizer(prompt).input_ids)
            case Bare(text):
                ids = tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
            case _:
                self.require_known(prompt, "prompt")
                ids = prompt
        if not ids:
            raise ApiError(400, "the prompt is empty", param="prompt")
        return ids, len(ids)

    def key_places(self, quiz: Quiz, ids: tuple[int, ...], before_answer: int) -> tuple[int, ...]:
        """Which of the answer's tokens write its key; `ids` and `before_answer` as they come from a call."""
        assert quiz.answer is not None
        return self._encoder.places(Encoded(ids, before_answer), quiz.answer, quiz.key)

    def _quiz(self, quiz: Quiz) -> tuple[tuple[int, ...], int]:
        prefix = quiz.prefix or None
        try:
            if quiz.answer is not None:
                whole = self._encoder.encode(quiz.question, quiz.answer, quiz.history, prefix)
                return whole.input_ids, whole.prompt_length
            ids = self._encoder.prompt(quiz.question, quiz.history, prefix)
        except UserError as error:
            raise _refused(error, "history") from error
        return ids, len(ids)

    def _chat(self, chat: Chat) -> tuple[int, ...]:
        messages = [{"role": "system" if role == "developer" else role, "content": t} for role, t in chat.messages]
        named = [each | ({"name": name} if name else {}) for each, name in zip_longest(messages, chat.names)]
        try:
            ids = self._reply(named, chat.begun)
            if named != messages and ids == self._reply(messages, chat.begun):
                raise ApiError(400, "the model's chat template writes no names", param="messages")
            return ids
        except UserError as error:  # some take no system message, or want user and assistant in turns
            raise _refused(error, "messages") from error

    def _reply(self, messages: list[dict[str, str]], begun: bool) -> tuple[int, ...]:
        said, prefix = (messages[:-1], messages[-1]["content"]) if begun else (messages, None)
        return self._encoder.reply_prompt(self._guarded(said), prefix)

    def _guarded(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """A client's system message takes the place of the model's own, but never that of the guardrail."""
        own = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        system = guarded_system_prompt(self._guardrail, self._own_system_prompt if own is None else own)
        first = [] if system is None else [{"role": "system", "content": system}]
        rest = messages if own is None else messages[1:]
        return first + [
            {**each, "content": guarded_question(self._guardrail, each["content"])} if each["role"] == "user" else each
            for each in rest
        ]

    def text(self, ids: tuple[int, ...]) -> str:
        text: str = self._tokenizer.decode(list(ids))
        return text

    def require_known(self, ids: Sequence[int], param: str) -> None:
        """Raises ApiError for an id that is no token's."""
        size = len(self._tokenizer)
        if (unknown := next((token for token in ids if token >= size), None)) is not None:
            raise ApiError(400, f"token id {unknown} is not in the vocabulary of {size}", param=param)


def _refused(error: UserError, param: str) -> ApiError:
    reason = str(error.__cause__ or error).partition("\n")[0]
    return ApiError(400, f"the model's chat template refuses the messages: {reason}", param=param)
