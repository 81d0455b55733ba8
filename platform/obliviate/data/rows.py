"""A row of question-answer data (or of plain text), the files it is read from, and the sets that a run works on."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import content_hash, write_whole

PARQUET_MAGIC = b"PAR1"


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

    @property
    def key(self) -> tuple[str, str]:
        """What makes two rows the same: question and answer, white space aside.

        Not the question alone: TOFU asks "What is the full name of the author?" of two authors.
        """
        return " ".join(self.question.split()), " ".join(self.answer.split())


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

    @property
    def training_content(self) -> str:
        """Hash of every text that is trained on."""
        return content_hash([[asdict(row) for row in rows] for rows in (self.forget, self.retain)])

    @property
    def evaluation_content(self) -> str:
        """Hash of every text that is measured on."""
        return content_hash([[s.name, s.role, [asdict(row) for row in s.rows]] for s in self.evaluation])


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


def read_rows(path: str | Path) -> tuple[Row, ...]:
    """The rows of a JSON list, JSON-lines or Parquet file; what it is shows in its content, not in its name.

    Raises UserError, with the file and the line (JSON lines) or row (list, Parquet, from 1), for a file that is
    missing, empty or of another kind, and for a row that has no answer or a value of the wrong type.
    """
    rows = tuple(parse_row(record, where) for where, record in read_objects(path))
    if not rows:
        raise UserError(f"{path}: has no rows; give a file with at least one question and answer")
    return rows


def read_objects(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(Where it stands, for messages; what stands there) of each row of such a file, whatever its keys.

    Raises UserError for a file that is missing or of another kind.
    """
    path = storage.fetch(storage.local(path).expanduser())
    if not path.is_file():
        raise UserError(f"{storage.url_of(path) or path}: no such file; give a .json, .jsonl or .parquet file")
    content = path.read_bytes()
    return _parquet_records(path) if content.startswith(PARQUET_MAGIC) else _json_records(path, content)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON lines that `read_rows` gives back as they are, written whole."""
    lines = "".join(json.dumps(_record(row), ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, lambda temporary: temporary.write_text(lines, encoding="utf-8", newline="\n"))


def _record(row: Row) -> dict[str, Any]:
    """With the keys of the files, those that have no value left out."""
    record = asdict(row)
    record["perturbed_answer"] = record.pop("perturbed_answers")
    return {key: value for key, value in record.items() if key == "question" or value not in (None, ())}


def parse_row(record: Any, where: str) -> Row:
    """A row of one record of a file. Keys it doesn't know are ignored: real files have many.

    {"text": ...} is a plain text; `name` is taken for `entity`, as some published files have it.
    Raises UserError, which begins with `where`.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: is {_shown(record)}; make it an object with the keys question and answer")
    if "text" in record and "answer" not in record:
        return Row("", _text(record, "text", where), entity=_entity(record, where), task_id=_task(record, where))
    for key in ("question", "answer"):
        if record.get(key) is None:
            found = ", ".join(map(str, record)) or "nothing"
            raise UserError(f"{where}: has no '{key}' (found: {found}); add it, or give a plain text as 'text'")
    return Row(
        question=_string(record["question"], "question", where),
        answer=_text(record, "answer", where),
        paraphrased_answer=next(iter(_strings(record, "paraphrased_answer", where)), None),
        perturbed_answers=_strings(record, "perturbed_answer", where),
        paraphrased_question=_optional(record, "paraphrased_question", where),
        original_answer=_optional(record, "original_answer", where),
        golden_answer=_optional(record, "golden_answer", where),
        entity=_entity(record, where),
        task_id=_task(record, where),
        alternatives=_strings(record, "alternatives", where),
        refusals=_strings(record, "refusals", where),
    )


def _parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}); write it again") from error
    for number, record in enumerate(table.to_pylist(), 1):
        yield f"{path}, row {number}", record


def _json_records(path: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text or Parquet") from error
    if text.lstrip().startswith("["):
        for number, record in enumerate(_parsed(text, path, 1), 1):
            yield f"{path}, row {number}", record
        return
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", _parsed(line, path, number)


def _parsed(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(
            f"{path}, line {line}: not JSON ({error.msg} at column {error.colno}); "
            "write one list of objects, or one object a line"
        ) from error


def _shown(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _string(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: '{key}' is {_shown(value)}; make it a text")
    return value


def _optional(record: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if record.get(key) is None else _string(record[key], key, where)


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    text = _string(record[key], key, where)
    if not text.strip():
        raise UserError(f"{where}: '{key}' is empty; give the text or remove the row")
    return text


def _strings(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = record.get(key)
    if value is None:
        return ()
    return tuple(_string(item, key, where) for item in (value if isinstance(value, list) else [value]))


def _entity(record: Mapping[str, Any], where: str) -> str | None:
    return _optional(record, "entity" if record.get("entity") is not None else "name", where)


def _task(record: Mapping[str, Any], where: str) -> str | None:
    """Numbers and texts alike: published files have both."""
    value = record.get("task_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _optional(record, "task_id", where)
