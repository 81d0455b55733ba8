"""The question that a judge behind an endpoint is asked of each answer, and what its reply says."""

import re
from pathlib import Path

from obliviate import storage
from obliviate.errors import UserError

SHIPPED = Path(__file__).parent / "prompts"
PLACES = re.compile(r"\{(question|reference|answer)\}")
_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
Case = tuple[str, str, str]  # question, reference, answer


def read_prompt(given: str) -> str:
    """`given` is the name of a shipped prompt, or a path. Raises UserError for one that asks nothing of an answer."""
    shipped = {path.stem: path for path in SHIPPED.glob("*.txt")}
    path = shipped.get(given) or storage.fetch(storage.local(given).expanduser())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"evaluation.judge.prompt: {given}: is no text file ({type(error).__name__}); give the path of one, or one "
            f"of {', '.join(sorted(shipped))}"
        ) from error
    missing = {"reference", "answer"} - set(PLACES.findall(text))
    if missing:
        raise UserError(
            f"evaluation.judge.prompt: {given}: has no {{{min(missing)}}}; write {{reference}} and {{answer}}, and if "
            "it is to be shown {question}, where those texts go"
        )
    return text


def filled(prompt: str, case: Case) -> str:
    """In one pass: a text that itself spells {answer} stays as it is, and so do other braces of the prompt."""
    texts = dict(zip(("question", "reference", "answer"), case, strict=True))
    return PLACES.sub(lambda place: texts[place[1]], prompt)


def verdict(reply: str) -> bool | None:
    """Yes or no, where the last line says one of them alone; None where it says neither, or both."""
    lines = [line for line in _THINKING.sub("", reply).splitlines() if line.strip()]
    words = {word.lower() for word in _VERDICT.findall(lines[-1])} if lines else set()
    return words == {"yes"} if len(words) == 1 else None
