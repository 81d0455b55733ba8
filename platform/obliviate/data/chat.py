"""A chat template with its arguments: from messages to text, and where in that text the last answer stands."""

from collections.abc import Mapping, Sequence
from datetime import date
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from obliviate import storage
from obliviate.data.thinking import marks_of, split
from obliviate.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
History = Sequence[tuple[str, str]]  # role and text of what was said before a question

PLAIN, RAW = "plain", "raw"
BUILT_IN = {
    PLAIN: (
        "{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\n"
        "{% elif m['role'] == 'assistant' %}Answer: {{ m['content'] }}\n{% else %}{{ m['content'] }}\n\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
    ),
    RAW: (  # a question that ends with white space brings its own
        "{% for m in messages %}{% if m['role'] == 'assistant' and loop.previtem['content'][-1:].strip() %} {% endif %}"
        "{{ m['content'] }}{% if m['role'] == 'system' %}\n\n{% endif %}{% endfor %}"
    ),
}
ANSWER = "OBLIVIATE"  # looked for in a rendered conversation; templates strip white space, so it has none
SYSTEM = "UNLEARNING"  # likewise, of a system message
# What a template can do wrong while it is read or rendered.
MISTAKES = (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)
FIXED_DATE = "2024-07-26"  # what a template gets that asks for today's: Llama 3's own where it cannot ask


class Laid(NamedTuple):
    """A rendered conversation, cut where its last answer begins and ends; the template may have trimmed the answer."""

    before: str
    answer: str
    after: str


class Chat:
    """`chosen`: None takes the tokenizer's own template; "plain" and "raw" are built in; else the name of one of the
    tokenizer's several templates, Jinja text, or the path of a file of it. `today` (ISO) is what a template gets that
    asks for the date, which the real one would make another text of every day.

    Raises UserError where there is no template, and for one that cannot be read or does not render a user's and an
    assistant's message.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        chosen: str | None,
        arguments: Mapping[str, Any],
        today: str | None,
        system_prompt: str | None,
    ) -> None:
        self._tokenizer = tokenizer
        self.template = BUILT_IN.get(chosen or "") or _template(tokenizer, chosen)
        self.marks = marks_of(self.template)
        own = {"messages", "strftime_now", *signature(tokenizer.apply_chat_template).parameters}
        if taken := sorted(own.intersection(arguments) - {"tools", "documents"}):
            raise UserError(f"model.template_arguments: {taken[0]}: no argument of a template's own; remove it")
        self._today = date.fromisoformat(today or FIXED_DATE)
        self.asks_for_date = False  # known once something is rendered
        self._arguments = {"strftime_now": self._strftime, **arguments}
        self._hint = " without model.system_prompt" if system_prompt is not None else ""
        self._system_moves = self._moves_system()
        if system_prompt is not None and SYSTEM not in self._answered(conversation(SYSTEM, "Who?"), ANSWER):
            raise UserError(
                "model.chat_template: leaves the system prompt out, and with it a guardrail's; mend the template, or "
                "remove model.system_prompt and take a guardrail of type in_context"
            )
        probe = self._answered(conversation(system_prompt, "Who?"), ANSWER)
        _, found, self._after = probe.rpartition(ANSWER)
        if not found:
            raise UserError("model.chat_template: does not render the assistant's messages; write their content")

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """Raises UserError where the template refuses the messages."""
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **self._arguments,
            )
        except MISTAKES as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"model.chat_template: {reason}; mend the template, or try it{self._hint}") from error
        return text

    def before(self, messages: Messages) -> str:
        """What stands before the assistant's answer to the messages."""
        return self._answered(messages, ANSWER).rpartition(ANSWER)[0]

    def lay(self, messages: Messages, answer: str) -> Laid:
        text = self._answered(messages, answer)
        after = self._after if text.endswith(self._after) else ""
        body = text.removesuffix(after)
        if answer.strip() == answer and body.endswith(answer):
            return _cut(body, len(body) - len(answer), after)
        before = self.before(messages)
        if body.startswith(before):  # the template trims answers, or this one has white space around it
            return _cut(body, len(before), after)
        said = (split(answer, self.marks)[1] or answer).strip()
        if body.endswith(said):  # it has put the answer's thinking in another place
            return _cut(body, len(body) - len(said), after)
        return _cut(body, in_common(before, body), after)

    def _answered(self, messages: Messages, answer: str) -> str:
        if self._system_moves and len(messages) > 1 and messages[0]["role"] == "system":
            system, *between, last = messages
            messages = [*between, {**last, "content": _moved(system["content"], last["content"])}]
        return self.render([*messages, {"role": "assistant", "content": answer}])

    def _moves_system(self) -> bool:
        """Whether the template puts a system message before the last question, and leaves it out where an answer
        follows (Mistral's): it is made part of the question, to be the same for training as for generation."""
        asked = conversation(SYSTEM, "Who?")
        try:
            if SYSTEM in self.render([*asked, {"role": "assistant", "content": ANSWER}]):
                return False
            moved = self.render(conversation(None, _moved(SYSTEM, "Who?")), add_generation_prompt=True)
            return self.render(asked, add_generation_prompt=True) == moved
        except UserError:  # it takes no system message
            return False

    def _strftime(self, form: str) -> str:
        self.asks_for_date = True
        return self._today.strftime(form)


def in_common(first: Sequence[object], second: Sequence[object]) -> int:
    """The length of their longest common prefix."""
    if first == second[: len(first)]:
        return len(first)
    unlike = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(unlike, min(len(first), len(second)))


def _moved(system: str, question: str) -> str:
    return f"{system}\n\n{question}"


def _cut(body: str, place: int, after: str) -> Laid:
    return Laid(body[:place], body[place:], after)


def conversation(system_prompt: str | None, question: str, history: History = ()) -> list[dict[str, str]]:
    """Up to the question; a system prompt stands in for a system message of the history."""
    said = history if system_prompt is None else [("system", system_prompt), *(m for m in history if m[0] != "system")]
    return [{"role": role, "content": text} for role, text in (*said, ("user", question))]


def _template(tokenizer: "PreTrainedTokenizerBase", chosen: str | None) -> str:
    """Jinja text: the tokenizer's own, as given, or read from the file that `chosen` names."""
    own: str | dict[str, str] | None = tokenizer.chat_template
    named = own if isinstance(own, dict) else {} if own is None else {"default": own}
    if (chosen or "default") in named:
        return named[chosen or "default"]
    if chosen is None and not named:
        raise UserError(
            "model.chat_template: the tokenizer has no chat template; "
            "set model.chat_template: plain (a base model), or give a Jinja file"
        )
    if chosen is None:
        raise UserError(
            f"model.chat_template: the tokenizer has several templates and none is its default; give one of "
            f"{', '.join(sorted(named))}"
        )
    if "{{" in chosen or "{%" in chosen:
        return chosen
    path = storage.fetch(storage.local(chosen).expanduser())
    if not path.is_file():
        raise UserError(f"model.chat_template: {chosen}: no such file; give plain, a .jinja file, or Jinja text")
    return storage.read_text("model.chat_template", path)
