"""The objects in a file of rows, of whatever kind: that shows in its content and, of tables of text, in its name."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.errors import UserError

KINDS = ".json, .jsonl, .csv, .tsv, .parquet or .arrow file, or one of these as .gz"
GZIP_MAGIC, PARQUET_MAGIC, ARROW_MAGIC = b"\x1f\x8b", b"PAR1", b"ARROW1"
ARROW_STREAM_MAGIC = b"\xff\xff\xff\xff"  # as `datasets` saves a data set
PACKED = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_objects(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(Where it stands, for messages; what stands there) of each row of such a file, whatever its keys.

    Raises UserError for a file that is missing or of another kind.
    """
    path = storage.fetch(storage.local(path).expanduser())
    if path.is_dir():
        raise UserError(
            f"{path}: is a folder; give a file in it, or {{path: {path}, split: train}} for a data set's part"
        )
    if not path.is_file():
        raise UserError(f"{storage.url_of(path) or path}: no such file; give a {KINDS}")
    content = _unpacked(path)
    if content.startswith((PARQUET_MAGIC, ARROW_MAGIC, ARROW_STREAM_MAGIC)):
        return _columns(path, content)
    if packed := next((kind for magic, kind in PACKED.items() if content.startswith(magic)), None):
        raise UserError(f"{path}: is {packed}; unpack it and give a {KINDS}")
    text = _decoded(path, content)
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    return _delimited(path, text, DELIMITERS[kind]) if kind in DELIMITERS else _json(path, text)


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked as gzip ({error}); pack it again") from error


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text or Parquet") from error


def _columns(path: Path, content: bytes) -> Iterator[tuple[str, Any]]:
    """A batch at a time: a table of objects takes many times the file's memory."""
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet as pq

    kind = "Parquet" if content.startswith(PARQUET_MAGIC) else "Arrow"
    number = 0
    try:
        if kind == "Parquet":
            batches = pq.ParquetFile(BytesIO(content)).iter_batches()
        elif content.startswith(ARROW_STREAM_MAGIC):
            batches = iter(pyarrow.ipc.open_stream(content))
        else:
            file = pyarrow.ipc.open_file(content)
            batches = map(file.get_batch, range(file.num_record_batches))
        for batch in batches:
            for record in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", record
    except pa.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read as {kind} ({reason}); write it again") from error


def _delimited(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, Any]]:
    """The first line names the columns; an empty cell is no value."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a whole book may stand in a cell
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = list(reader.fieldnames or ())
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{path}, line 1: names the column {twice[0]!r} twice; rename one of them")
        for record in reader:
            where = f"{path}, line {reader.line_num}"
            if None in record or None in record.values():
                columns = ", ".join(reader.fieldnames or ())
                raise UserError(
                    f"{where}: has more or fewer cells than the first line names ({columns}); mend the line"
                )
            yield where, {column: cell or None for column, cell in record.items()}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; quote texts that hold separators") from error


def _json(path: Path, text: str) -> Iterator[tuple[str, Any]]:
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
    except (RecursionError, ValueError) as error:  # lists in lists in lists, numbers of thousands of digits
        raise UserError(f"{path}, line {first_line}: JSON too deep or too long to read ({error}); mend it") from error
