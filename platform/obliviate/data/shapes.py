"""Records as people have them, brought to the keys of `rows.parse_row`.

Chats (`messages`, `conversations`), prompt and completion, instruction and output (Alpaca), preferences (prompt,
chosen, rejected). A chat's last answer is the answer, the question is what came before it, and the rest its history.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from obliviate.data.lists import listed
from obliviate.errors import UserError

ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "developer": "system"}
OTHER_NAMES = {"perturbed_answers": "perturbed_answer", "paraphrased_answers": "paraphrased_answer", "name": "entity"}
ANSWERS = ("completion", "response", "output")  # what a prompt's or an instruction's answer may be called
CHATS = ("messages", "conversations", "conversation")


def standard(record: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """With our keys beside the record's own; `columns`: our key -> the record's.

    Raises UserError, which begins with `where`, for a chat without an answer, and for a column that is not there.
    """
    found = dict(record)
    for key, column in columns.items():
        if column not in record:
            names = ", ".join(map(str, record)) or "nothing"
            raise UserError(f"{where}: data.columns.{key}: no column {column!r} (found: {names}); name one of those")
        found[key] = record[column]
    for name, key in OTHER_NAMES.items():
        if found.get(key) is None and found.get(name) is not None:
            found[key] = found[name]
    if found.get("answer") is None:
        found |= _from_chat(found, where) or _from_prompt(found, where) or {}
    return found


def _from_chat(record: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    chats = (listed(record.get(key)) for key in CHATS)
    chat = next((chat for chat in chats if isinstance(chat, list)), None)
    return None if chat is None else _split(_messages(chat, where), where)


def _from_prompt(record: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    prompt = _chat_in(record.get("prompt"))
    answer = next((_chat_in(record[key]) for key in ANSWERS if record.get(key) is not None), None)
    if prompt is None and record.get("instruction") is not None:
        parts = (record["instruction"], record.get("input"))
        prompt = "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())
    if prompt is None and record.get("question") is not None:
        prompt = record["question"]
    chosen, rejected = (_last_said(record.get(key), where) for key in ("chosen", "rejected"))
    answer = answer if answer is not None else chosen
    if prompt is None or answer is None:
        return None
    asked = _messages(prompt, where) if isinstance(prompt, list) else [("user", prompt)]
    said = _messages(answer, where) if isinstance(answer, list) else [("assistant", answer)]
    false = {} if rejected is None else {"perturbed_answer": [*_listed(record.get("perturbed_answer")), rejected]}
    other = {} if chosen in (None, answer) else {"alternatives": [*_listed(record.get("alternatives")), chosen]}
    return _split([*asked, *said], where) | false | other


def _split(messages: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    """The last answer, what it answers, and what was said before."""
    last = max((place for place, (role, _) in enumerate(messages) if role == "assistant"), default=0)
    if not last or messages[last - 1][0] != "user":
        roles = ", ".join(role for role, _ in messages) or "nothing"
        raise UserError(f"{where}: the chat has no answer to a user's message (roles: {roles}); end it with one")
    history = [list(message) for message in messages[: last - 1]]
    return {"question": messages[last - 1][1], "answer": messages[last][1], "history": history}


def _messages(chat: Sequence[Any], where: str) -> list[tuple[str, Any]]:
    """(Role, text) of each, of OpenAI's keys or ShareGPT's."""
    found = []
    for each in chat:
        if not isinstance(each, Mapping):
            raise UserError(f"{where}: a message is {each!r}; make it an object with the keys role and content")
        role, text = each.get("role", each.get("from")), each.get("content", each.get("value"))
        if isinstance(text, list):  # parts, of which pictures and the like say nothing here
            said = [part.get("text", "") for part in text if isinstance(part, Mapping)]
            text = "".join(said) if all(isinstance(part, str) for part in said) else None
        if not isinstance(role, str) or not isinstance(text, str):
            raise UserError(f"{where}: a message has the keys {', '.join(map(str, each))}; give it role and content")
        found.append((ROLES.get(role, role), text))
    return found


def _last_said(value: Any, where: str) -> Any:
    """Of a preference, which is a text or a chat."""
    value = _chat_in(value)
    return _messages(value, where)[-1][1] if isinstance(value, list) and value else value


def _chat_in(value: Any) -> Any:
    """The messages that a text is of, as tables have them; else what is given."""
    found = listed(value)
    return found if isinstance(found, list) and all(isinstance(each, Mapping) for each in found) else value


def _listed(value: Any) -> list[Any]:
    value = listed(value)
    return value if isinstance(value, list) else [] if value is None else [value]
