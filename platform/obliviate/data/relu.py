"""ReLU: TOFU's facts in other formats than it was trained on (Joshi et al. 2024, arXiv:2411.15477)."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.hub import load_objects, text_of
from obliviate.data.options import LETTERS, lettered, others
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.tofu import RETAIN_OF
from obliviate.errors import UserError

if TYPE_CHECKING:
    from numpy.random import RandomState

Format = Literal["mcqa", "cloze", "analogy", "odd_one_out", "comprehension_qa", "comprehension_mcqa"]
FORMATS: tuple[Format, ...] = (
    "mcqa", "cloze", "analogy", "odd_one_out", "comprehension_qa", "comprehension_mcqa"
)  # fmt: skip
MASK = "[MASK]"
SEED = 42  # of the published order of options
ODD = (
    "Choose the option that is providing different information from the rest of the options "
    "(choose the odd option from the below options):"
)
PUBLISHED_ODD = "Choose the option that provides a correct fact (choose the correct option from the below options):"


class ReluData(Data):
    """ReLU's files, from the hub or from a local folder with `mcqa/forget05.json` and its like.

    Prompts stand as they are: set `model.chat_template: raw`. `as_published` asks what the published code asked: odd
    facts for "a correct fact", with two or three options only the first of the four, and the letters of four.
    """

    type: Literal["relu"] = "relu"
    source: str = "Exploration-Lab/ReLU"  # hub id or local folder
    split: Literal["forget01", "forget05", "forget10"] = "forget10"
    formats: tuple[Format, ...] = Field(default=FORMATS, min_length=1)
    options: Literal[2, 3, 4] = 4  # of each question with options
    as_published: bool = False
    eval_limit: int | None = Field(default=None, ge=1)  # rows measured of each set, from its beginning

    def load(self) -> Corpus:
        """Raises UserError for a missing file, a row of another form, or where the hub does not answer."""
        sets = tuple(
            EvaluationSet(f"{form}_{role}", role, self._rows(form, split)[: self.eval_limit])
            for form in self.formats
            for role, split in ((Role.FORGET, self.split), (Role.RETAIN, RETAIN_OF[self.split][0]))
        )
        return Corpus((), (), sets, only_measured=True)

    def _rows(self, form: Format, split: str) -> tuple[Row, ...]:
        from numpy.random import RandomState

        random = RandomState(SEED)
        subset = form.partition("_")[0] if form.startswith("comprehension") else form.replace("_", "-")
        reading: dict[Format, Callable[[Any, str], list[Row]]] = {
            "mcqa": lambda row, where: [self._choice(row, where, "Correct option", random)],
            "analogy": lambda row, where: [self._choice(row, where, "correct options", random)],
            "cloze": _cloze,
            "odd_one_out": lambda row, where: [self._odd(row, where, random)],
            "comprehension_qa": _read,
            "comprehension_mcqa": lambda row, where: [
                self._choice(each, where, "Correct option", random, _context(row, where))
                for each in _parts(row, "mcq", where)
            ],
        }
        objects = load_objects(self.source, subset, split)
        return tuple(made for where, row in objects for made in reading[form](row, where))

    def _choice(self, row: Any, where: str, key: str, random: "RandomState", context: str = "") -> Row:
        question, options = text_of(row, "question", where), [_shown(row, letter, where) for letter in LETTERS]
        right = options.index(options[LETTERS.index(_letter(row, key, where))])
        return self._ask(f"{context}Question: {question} \n", options, right, random)

    def _odd(self, row: Any, where: str, random: "RandomState") -> Row:
        sentences = [row.get(letter) if isinstance(row, Mapping) else None for letter in LETTERS]
        options, odd = [_shown(sentence, "answer", where) for sentence in sentences], row.get("ans")
        right = sentences.index(odd) if odd in sentences else LETTERS.index(_letter(row, "ans", where))
        question = PUBLISHED_ODD if self.as_published else ODD
        return self._ask(f"Question: {question}\n", options, options.index(options[right]), random)

    def _ask(self, lead: str, options: Sequence[str], right: int, random: "RandomState") -> Row:
        """The order of the options is that of the published code, draw for draw."""
        pool = range(self.options if self.as_published else len(options))
        wrong = random.choice([i for i in pool if i != right], self.options - 1, replace=False)
        drawn = [options[right], *(options[i] for i in wrong)]
        random.shuffle(drawn)
        letter = LETTERS[drawn.index(options[right])]
        return Row(
            f"{lead}{lettered(drawn)}\nAnswer:",
            letter,
            perturbed_answers=others(letter, len(LETTERS) if self.as_published else self.options),
        )


def _cloze(row: Any, where: str) -> list[Row]:
    """None where other than one place is masked, as published."""
    question, masked = text_of(row, "question", where), text_of(row, "mask", where)
    before, *rest = masked.split(MASK)
    if len(rest) != 1:
        return []
    [blank, *_] = _parts(row, "blanks", where)
    return [Row(f"Question: {question}\nAnswer:", str(blank), answer_prefix=before.strip() or None)]


def _read(row: Any, where: str) -> list[Row]:
    return [
        Row(
            f"{_context(row, where)}Question: {text_of(each, 'question', where)}\nAnswer:",
            text_of(each, "answer", where),
        )
        for each in _parts(row, "QA", where)
    ]


def _context(row: Any, where: str) -> str:
    return f"Context: {text_of(row, 'prompt', where)}\n"


def _parts(row: Any, key: str, where: str) -> list[Any]:
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: '{key}' is {value!r}; make it a list, or give ReLU's own files")
    return value


def _shown(row: Any, key: str, where: str) -> str:
    """Numbers and texts alike."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if value is None or not str(value).strip():
        raise UserError(f"{where}: has no option '{key}'; give ReLU's own files")
    return str(value)


def _letter(row: Any, key: str, where: str) -> str:
    """What a text, or the first of a list, begins with."""
    value = row.get(key)
    letter = str(value[0]) if isinstance(value, str | list) and value else ""
    if letter[:1] not in set(LETTERS):
        raise UserError(f"{where}: '{key}' is {value!r}; make it begin with the letter of the right option, A to D")
    return letter[0]
