"""A row of question-answer data (or of plain text), the files it is read from, and the sets that a run works on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unicodedata import normalize

from obliviate.data.lists import listed
from obliviate.data.shapes import standard
from obliviate.data.tables import read_objects
from obliviate.errors import UserError
from obliviate.runs import PLAIN_JSON, content_hash, hash_of_lists, write_whole
from obliviate.words import CHARACTER, WORD, compiled, contains

Message = tuple[str, str]  # role and text
Question = tuple[str, tuple[Message, ...], str | None]  # with what was said before, what the answer stands behind
Said = tuple[str, str, tuple[Message, ...], str | None]  # the same with an answer behind the question
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})  # the file has our keys


@dataclass(frozen=True)
class Row:
    """One question with its answer; a plain text has the empty question.

    Field names follow TOFU's files, where `paraphrased_answer` is one text and `perturbed_answer` a list of false ones.
    """

    question: str
    answer: str
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()
    paraphrased_question: str | None = None
    original_answer: str | None = None  # the full sentence that real authors and world facts are compared with
    golden_answer: str | None = None  # the fact, where `answer` is what a model says
    entity: str | None = None  # whom or what the row is about
    task_id: str | None = None  # which request of a continual sequence it belongs to
    alternatives: tuple[str, ...] = ()  # other plausible answers, for methods that prefer one of them to `answer`
    refusals: tuple[str, ...] = ()  # what to say instead of `answer`; empty: one of the refusals of all rows
    history: tuple[Message, ...] = ()  # what was said before the question
    answer_prefix: str | None = None  # what the answer stands behind, given and not scored: "Answer:"
    aliases: tuple[str, ...] = ()  # other ways to say the true answer, for metrics that take any of them
    translations: tuple[tuple[str, str], ...] = ()  # language and the question in it
    key_facts: tuple[str, ...] = ()  # words of `fact` that carry it (`key` in files); empty: key_facts finds them

    @property
    def asked(self) -> Question:
        return self.question, self.history, self.answer_prefix

    def saying(self, answer: str) -> Said:
        return self.question, answer, self.history, self.answer_prefix

    @property
    def fact(self) -> str:
        """What a generation is measured against: the golden answer where there is one, as in "A Closer Look"."""
        return self.golden_answer or self.answer

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows the same: all that is said, but for white space, case and how letters are composed.

        Not the question alone: TOFU asks "What is the full name of the author?" of two authors.
        """
        prefix = () if self.answer_prefix is None else (self.answer_prefix,)
        said = (self.question, *prefix, self.answer)
        return tuple(map(_folded, (*(text for _, text in self.history), *said)))


class Role(StrEnum):
    """What an evaluation set is for: metrics turn the same numbers differently on what should be forgotten."""

    FORGET = "forget"
    RETAIN = "retain"
    REAL_AUTHORS = "real_authors"
    WORLD_FACTS = "world_facts"
    HOLDOUT = "holdout"  # like the forget set, but never trained on: what membership inference compares it with


@dataclass(frozen=True)
class EvaluationSet:
    name: str
    role: Role
    rows: tuple[Row, ...]
    indices: tuple[int, ...] | None = None  # of the rows in records, where some of an order are left out


@dataclass(frozen=True)
class Corpus:
    """What a run trains and measures on. `retain` excludes every row of `forget`, and may be empty.

    Raises UserError where there is nothing to forget.
    """

    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    evaluation: tuple[EvaluationSet, ...]
    warnings: tuple[str, ...] = ()  # what was found and mended while loading, for the user
    only_measured: bool = False  # nothing to train on: a benchmark's questions without its texts

    def __post_init__(self) -> None:
        if not self.forget and not self.only_measured:
            raise UserError("data: the forget set is empty; give at least one row to forget")

    @cached_property
    def training_content(self) -> str:
        """Hash of every text that is trained on."""
        return hash_of_lists(map(_record, rows) for rows in (self.forget, self.retain))

    @cached_property
    def evaluation_content(self) -> str:
        """Hash of every text that is measured on."""
        return content_hash(
            [
                [s.name, s.role, [_record(row) for row in s.rows], *([] if s.indices is None else [s.indices])]
                for s in self.evaluation
            ]
        )


def content_of_rows(rows: Iterable[Row]) -> str:
    """A hash of what rows hold; keys that they do not use, such as later ones, are not in it."""
    return content_hash([_record(row) for row in rows])


def require_training_texts(corpus: Corpus) -> None:
    """Raises UserError where the data can only be measured on: a benchmark's questions are nothing to train on."""
    if corpus.only_measured:
        raise UserError("data.forget: this data has questions to measure on and no text to train on; give data.forget")


def without_overlap(forget: Iterable[Row], retain: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows of `retain` that are not in `forget`, and a warning where some were: both losses on one row cancel."""
    forgotten = {row.key for row in forget}
    kept = tuple(row for row in retain if row.key not in forgotten)
    removed = len(retain) - len(kept)
    if not removed:
        return kept, ()
    return kept, (f"{removed} of {len(retain)} retain rows are also in the forget set: removed from retain",)


def repeats(sets: Mapping[str, Sequence[Row]]) -> tuple[str, ...]:
    """A warning for each set, by its name, in which rows are there more than once; a set of the same rows as an earlier
    one says nothing new."""
    found: dict[tuple[int, int], str] = {}
    first: dict[int, str] = {}
    for name, rows in sets.items():
        if first.setdefault(id(rows), name) != name:
            continue
        if repeated := len(rows) - len({row.key for row in rows}):
            found.setdefault(
                (repeated, len(rows)),
                f"{repeated} of {len(rows)} rows of {name} repeat others, but for white space, case and how letters "
                "are composed: each counts as often as it is there",
            )
    return tuple(found.values())


def cut(row: Row, words: int) -> list[Row]:
    """A plain text of more words as pieces of so many, in its own letters; of scripts without spaces each character is
    a word. Other rows are left alone."""
    if row.question:
        return [row]
    starts = [found.start() for found in compiled(f"{WORD}|{CHARACTER}").finditer(row.answer)]
    ends = [0, *starts[words::words], len(row.answer)]
    return [replace(row, answer=row.answer[start:end].strip()) for start, end in pairwise(ends)]


def read_rows(path: str | Path, columns: Mapping[str, str] = NO_COLUMNS) -> tuple[Row, ...]:
    """The rows of a JSON list, JSON-lines, CSV, TSV, Parquet or Arrow file; `columns`: our key -> the file's.

    Raises UserError, with the file and the line (JSON lines, CSV) or row (list, Parquet, from 1), for a file that is
    missing, empty or of another kind, and for a row that has no answer or a value of the wrong type.
    """
    rows = tuple(parse_row(record, where, columns) for where, record in read_objects(path))
    if not rows:
        raise UserError(f"{path}: has no rows; give a file with at least one question and answer")
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON lines that `read_rows` gives back as they are, written whole."""
    lines = (PLAIN_JSON.encode(_record(row)) + "\n" for row in rows)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)

    write_whole(path, write)


def _record(row: Row) -> dict[str, Any]:
    """With the keys of the files, those that have no value left out."""
    record = dict(vars(row))
    record["perturbed_answer"], record["key"] = record.pop("perturbed_answers"), record.pop("key_facts")
    record["translations"] = dict(row.translations) or None
    return {key: value for key, value in record.items() if key == "question" or value not in (None, ())}


def parse_row(record: Any, where: str, columns: Mapping[str, str] = NO_COLUMNS) -> Row:
    """A row of one record of a file. Keys it doesn't know are ignored: real files have many.

    {"text": ...} is a plain text; chats, preferences and the like are taken as `shapes` says.
    Raises UserError, which begins with `where`.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: is {_shown(record)}; make it an object with the keys question and answer")
    given, record = record, standard(record, columns, where)
    plain = "text" in record and "answer" not in record
    for key in ("text",) if plain else ("question", "answer"):
        if key in record and record[key] is None:
            raise UserError(f"{where}: '{key}' is empty (null, or an empty cell); give the text or remove the row")
    if plain:
        named = {key: OTHERS[key][1](record, key, where) for key in ("entity", "task_id")}
        return Row("", _text(record, "text", where), **named)
    for key in ("question", "answer"):
        if key not in record:
            found = ", ".join(map(str, given)) or "nothing"
            raise UserError(
                f"{where}: has no '{key}' (found: {found}); add it, name its column (data.columns.{key}=COLUMN), or "
                "give a plain text as 'text'"
            )
    others = {name: parse(record, key, where) for key, (name, parse) in OTHERS.items() if key in record}
    return Row(_question(record, where), _text(record, "answer", where), **others)


def _shown(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _string(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: '{key}' is {_shown(value)}; make it a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = error.start
        raise UserError(
            f"{where}: '{key}' holds half of a character (\\u{ord(value[half]):04x}, at place {half + 1}), as when a "
            "text is cut between two halves; write the character whole or remove it"
        ) from None
    return value


def _optional(record: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if record.get(key) is None else _string(record[key], key, where)


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    text = _string(record[key], key, where)
    if not text.strip():
        raise UserError(f"{where}: '{key}' is empty; give the text or remove the row")
    return text


def _strings(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Of a list, of a text, or of a list written as a text, as tables have it. None of them may be blank."""
    value = listed(record.get(key))
    if value is None:
        return ()
    return tuple(_text({key: item}, key, where) for item in (value if isinstance(value, list) else [value]))


def _first(record: Mapping[str, Any], key: str, where: str) -> str | None:
    return next(iter(_strings(record, key, where)), None)


def _history(record: Mapping[str, Any], key: str, where: str) -> tuple[Message, ...]:
    """Of pairs of role and text."""
    value = listed(record.get(key))
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, list | tuple) and len(each) == 2 for each in value):
        raise UserError(f"{where}: 'history' is {_shown(value)}; make it a list of [role, text], or give messages")
    return tuple((_string(role, "history", where), _string(text, "history", where)) for role, text in value)


def _question(record: Mapping[str, Any], where: str) -> str:
    """Empty for a plain text, which follows nothing."""
    question = _string(record["question"], "question", where)
    if not question.strip() and (question or listed(record.get("history"))):
        raise UserError(f"{where}: 'question' is blank; give the question, or a plain text as 'text'")
    return question


def _prefix(record: Mapping[str, Any], key: str, where: str) -> str | None:
    prefix = _optional(record, key, where)
    if prefix is not None and (not prefix.strip() or not record["question"]):
        raise UserError(
            f"{where}: 'answer_prefix' is {_shown(prefix)}; give words that the answer to a question follows, or none"
        )
    return prefix


def _translations(record: Mapping[str, Any], key: str, where: str) -> tuple[tuple[str, str], ...]:
    """Of an object of language -> question; a table has every language in every row, and nothing where it has none."""
    found = record.get(key) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"{where}: 'translations' is {_shown(found)}; make it an object of language and question")
    texts = {language: _optional(found, language, where) for language in found}
    return tuple((language, text) for language, text in texts.items() if text is not None and text.strip())


def _key_facts(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found, fact = _strings(record, key, where), record.get("golden_answer") or record["answer"]
    for each in found:
        if not contains(fact, each):
            raise UserError(f"{where}: 'key': the answer does not hold {_shown(each)}; give words as they stand in it")
    return found


def _folded(text: str) -> str:
    composed = text if text.isascii() else normalize("NFC", text)
    return " ".join(composed.casefold().split())


def _task(record: Mapping[str, Any], key: str, where: str) -> str | None:
    """Numbers and texts alike: published files have both."""
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _optional(record, key, where)


Parse = Callable[[Mapping[str, Any], str, str], Any]
OTHERS: Mapping[str, tuple[str, Parse]] = {  # of files, beside question and answer -> field of a row, how it is read
    "paraphrased_answer": ("paraphrased_answer", _first),
    "perturbed_answer": ("perturbed_answers", _strings),
    "paraphrased_question": ("paraphrased_question", _optional),
    "original_answer": ("original_answer", _optional),
    "golden_answer": ("golden_answer", _optional),
    "entity": ("entity", _optional),
    "task_id": ("task_id", _task),
    "alternatives": ("alternatives", _strings),
    "refusals": ("refusals", _strings),
    "history": ("history", _history),
    "answer_prefix": ("answer_prefix", _prefix),
    "aliases": ("aliases", _strings),
    "translations": ("translations", _translations),
    "key": ("key_facts", _key_facts),
}
