"""Which words of a row's answer carry its fact: what must not come back once it is forgotten.

They are given under `key`, or found from the row's false answers: these replace, in the paraphrase of the true answer,
the words that carry the fact and keep its frame. The words replaced by any of them are then located in the answer
itself: as they stand, or, where the answer puts the fact otherwise, as the words that neither the frame nor the
question has.
"""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from obliviate.data.rows import Row
from obliviate.words import Word, contains, place_of, words_of

Span = tuple[int, int]  # characters of the answer, the end excluded

# English words that carry no fact by themselves: left out where a span begins or ends with them.
FRAME = frozenset(
    word.text
    for word in words_of("""
    a an and are as at be been being both but by can could did do does for from had has have he her hers him
    his i in into is it its itself me my of on or our s she such t than that the their theirs them then these
    they this those to too was we were what when where which while who whom whose will with would you your
""")
)


def key_spans(row: Row) -> tuple[Span, ...]:
    """Ranges of characters of `row.fact`, in order; empty where they cannot be told, or are found to be the whole
    answer, which then has no frame that could lead to the fact. Words that are given may be all of it."""
    answer = words_of(row.fact)
    if row.key_facts:
        places = _located(answer, [_texts(words_of(key)) for key in row.key_facts])
    else:
        places = _found(row, answer)
    return tuple(_spans(answer, places)) if row.key_facts or len(places) < len(answer) else ()


def key_texts(row: Row) -> tuple[str, ...]:
    """What stands at the spans."""
    return tuple(row.fact[start:end] for start, end in key_spans(row))


def asked_for(row: Row) -> tuple[str, ...]:
    """Those that the question does not hold itself."""
    return tuple(key for key in key_texts(row) if not says(row.question, [key]))


def unasked_spans(row: Row) -> tuple[Span, ...]:
    """A guess where neither given words nor false answers tell: what the answer has and the question has not, in this
    form or in one with another ending ("live", "lives")."""
    answer, asked = words_of(row.fact), _texts(words_of(row.question))
    words = _texts(answer)
    places = {place for place, word in enumerate(words) if not any(_alike(word, each) for each in asked)}
    return tuple(_spans(answer, {place for run in _runs(places) for place in _trimmed(words, run)}))


def says(text: str, keys: Sequence[str]) -> bool:
    """Whether the text says each of them, word by word, in any script."""
    return all(contains(text, key) for key in keys)


def _found(row: Row, answer: Sequence[Word]) -> set[int]:
    """Places of the answer's words that the false answers tell to be the fact."""
    frame = _texts(words_of(row.paraphrased_answer or row.fact))
    replaced = _replaced(frame, [_texts(words_of(false)) for false in row.perturbed_answers])
    if not replaced:
        return set()
    asked = set(_texts(words_of(row.question)))
    runs = [[frame[place] for place in _trimmed(frame, run)] for run in _runs(replaced)]
    places = _located(answer, [run for run in runs if not asked.issuperset(run)])  # the question tells those itself
    if not places:
        kept = {word for place, word in enumerate(frame) if place not in replaced} | asked
        places = {place for place, word in enumerate(answer) if word.text not in kept}
    words = _texts(answer)
    return {place for run in _runs(places) for place in _trimmed(words, run)}


def _replaced(frame: Sequence[str], others: Sequence[Sequence[str]]) -> set[int]:
    """Places of the frame's words that any of the others has something else for."""
    found: set[int] = set()
    for other in others:
        for what, start, end, _, _ in SequenceMatcher(None, frame, other, autojunk=False).get_opcodes():
            if what in ("replace", "delete"):
                found.update(range(start, end))
    return found


def _located(answer: Sequence[Word], runs: Sequence[Sequence[str]]) -> set[int]:
    """Places in the answer of each run of words that is there, each at its own, the longest first."""
    words, taken = _texts(answer), set[int]()
    for run in sorted(runs, key=len, reverse=True):
        place = place_of(run, words, taken)
        if place is not None:
            taken.update(range(place, place + len(run)))
    return taken


def _trimmed(words: Sequence[str], run: Sequence[int]) -> Sequence[int]:
    """Of places that follow each other those from the first word that carries a fact to the last one."""
    bearing = [place for place in run if words[place] not in FRAME]
    return range(bearing[0], bearing[-1] + 1) if bearing else ()


def _alike(one: str, other: str) -> bool:
    """The same word, but for an ending of up to two letters on one of at least four."""
    short, long = sorted((one, other), key=len)
    return one == other or (len(short) >= 4 and len(long) - len(short) <= 2 and long.startswith(short))


def _runs(places: set[int]) -> Iterator[list[int]]:
    """Places that follow each other."""
    run: list[int] = []
    for place in sorted(places):
        if run and place > run[-1] + 1:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _spans(answer: Sequence[Word], places: set[int]) -> Iterator[Span]:
    for run in _runs(places):
        yield answer[run[0]].start, answer[run[-1]].end


def _texts(words: Sequence[Word]) -> list[str]:
    return [word.text for word in words]
