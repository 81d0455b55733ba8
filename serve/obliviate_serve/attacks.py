"""The ways of asking a question that a probe may name: templates, and other words that the question itself brings."""

from collections.abc import Sequence
from dataclasses import dataclass

from obliviate.wordings import WORDINGS
from obliviate_serve.api import AttackInfo, Question
from obliviate_serve.errors import ApiError

# As evaluation has them (obliviate_eval.formats): asked from what a row of data brings.
OWN_WORDS = {
    "paraphrased": ("paraphrased_question", "The question's own paraphrase."),
    "translated": ("translations", "The question in each language that it brings a translation to."),
}
NAMES = (*WORDINGS, *OWN_WORDS)


@dataclass(frozen=True)
class Way:
    """`prefix` begins the model's answer."""

    name: str
    question: str
    prefix: str = ""


def infos() -> list[AttackInfo]:
    templates = [
        AttackInfo(
            name=name,
            kind=each.kind,
            description=each.description,
            needs_context=each.needs_context,
            needs="context" if each.needs_context else None,
        )
        for name, each in WORDINGS.items()
    ]
    own = [
        AttackInfo(name=name, kind="own_words", description=description, needs_context=False, needs=key)
        for name, (key, description) in OWN_WORDS.items()
    ]
    return templates + own


def ways(name: str, question: Question) -> Sequence[Way]:
    """None where the question brings nothing to ask with. Raises ApiError for an attack that there isn't."""
    if name not in NAMES:
        known = ", ".join(NAMES)
        raise ApiError(400, f"there is no attack {name!r}; known: {known}", param="attacks", code="unknown_attack")
    begun = question.answer_prefix
    if name in WORDINGS:
        wording = WORDINGS[name]
        if wording.needs_context and not question.context:
            return []
        prefix = " ".join(filter(None, (wording.prefix, begun)))
        return [Way(name, wording.apply(question.question, question.context), prefix)]
    if name == "paraphrased":
        return [] if question.paraphrased_question is None else [Way(name, question.paraphrased_question, begun)]
    return [Way(f"{name}_{language}", text, begun) for language, text in question.translations.items()]


def nothing_to_ask_with(name: str) -> ApiError:
    """Of an attack that has no way to ask a question."""
    if name in WORDINGS:
        return ApiError(400, f"the attack {name} teaches facts again: give some in context", param="context")
    key, _ = OWN_WORDS[name]
    return ApiError(400, f"the attack {name} asks in the question's own other words: give {key}", param=key)
