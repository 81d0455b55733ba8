"""Which words of a true answer carry its fact: as the platform finds them for a row of data."""

from obliviate.data.key_facts import key_spans, unasked_spans
from obliviate.data.rows import Row
from obliviate.words import contains, place_of, words_of
from obliviate_serve.api import Key, KeyFact, Question
from obliviate_serve.errors import ApiError


def key_of(question: Question) -> Key | None:
    """None without a true answer, and where the words cannot be told. Raises ApiError for given words that the answer
    does not hold."""
    if question.answer is None:
        return None
    if missing := next((each for each in question.key if not contains(question.answer, each)), None):
        raise ApiError(400, f"the answer does not hold {missing!r}; give words as they stand in it", param="key")
    row = Row(
        question.question,
        question.answer,
        paraphrased_answer=question.paraphrased_answer,
        perturbed_answers=tuple(question.perturbed_answer),
        key_facts=tuple(question.key),
    )
    spans, source = key_spans(row), "given" if question.key else "false_answers"
    if not spans:
        spans, source = unasked_spans(row), "guess"
    facts = [KeyFact(text=question.answer[start:end], start=start, end=end) for start, end in spans]
    return Key(facts=facts, source=source) if facts else None


def sayings(question: Question, key: Key | None, *prompt: str) -> tuple[tuple[str, ...], ...]:
    """What says the fact where an answer says all of one of them: the key's words, or an alias, without what a prompt
    of these texts tells itself."""
    keys = tuple(question.key) or (() if key is None else tuple(each.text for each in key.facts))
    told = "\n".join((*prompt, *(turn.content for turn in question.history), question.system or ""))
    ways = (keys, *((alias,) for alias in question.aliases))
    words = _words(told)
    untold = (tuple(each for each in way if place_of(_words(each), words) is None) for way in ways)
    return tuple(way for way in untold if way)


def _words(text: str) -> list[str]:
    return [word.text for word in words_of(text)]
