"""General instructions with answers: what a model is asked every day, beside what it forgets and its neighbours."""

from collections.abc import Mapping
from typing import Any

from obliviate.data.rows import Row, parse_row
from obliviate.data.tables import read_objects
from obliviate.errors import UserError, under


def load_world(path: str) -> tuple[Row, ...]:
    """The rows of a JSON, JSON-lines or Parquet file: `question` and `answer`, or as Alpaca's files have them
    `instruction`, `input` and `output`.

    Raises UserError, with the config's key, for a file that is missing, empty or of another kind.
    """
    with under("world"):
        rows = tuple(parse_row(_as_question(record), where) for where, record in read_objects(path))
    if not rows:
        raise UserError(f"world: {path}: has no rows; give a file of instructions with answers")
    return rows


def _as_question(record: Any) -> Any:
    """Alpaca's `input` stands below its instruction; where it is empty, there is none."""
    if not isinstance(record, Mapping) or "instruction" not in record:
        return record
    parts = [record["instruction"], record.get("input") or ""]
    if not all(isinstance(part, str) for part in parts):
        return record
    answer = {"answer": record["output"]} if "output" in record else {}
    return {"question": "\n\n".join(filter(None, parts)), **answer}
