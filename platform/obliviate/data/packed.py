"""Many rows in one block of memory, as Arrow has it: made into rows one at a time, when they are asked for.

A million rows as Python objects take gigabytes and seconds to send to a worker. Packed, they are one buffer, which Ray
puts into its object store once a node and maps into every worker's memory.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, overload

import pyarrow as pa

from obliviate.data.rows import Row
from obliviate.runs import PLAIN_JSON

PACKED_FROM = 10_000  # rows: fewer are quicker as they are


def packed(rows: Sequence[Row]) -> Sequence[Row]:
    """The same rows, packed where they are many."""
    return rows if len(rows) < PACKED_FROM or isinstance(rows, PackedRows) else PackedRows.of(rows)


class PackedRows(Sequence[Row]):
    def __init__(self, values: pa.LargeStringArray) -> None:
        self._values = values

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "PackedRows":
        return cls(pa.array(map(_text, rows), pa.large_string()))

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> "PackedRows": ...

    def __getitem__(self, index: int | slice) -> "Row | PackedRows":
        if isinstance(index, slice):
            return PackedRows(self._values[index])
        return _row(self._values[index].as_py())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedRows) and (self is other or bool(self._values.equals(other._values)))

    def __hash__(self) -> int:
        ends = (self._values[place].as_py() for place in (0, -1)) if len(self) else ()
        return hash((len(self), *ends))


def _text(row: Row) -> str:
    """Fields without a value are left out."""
    return PLAIN_JSON.encode({name: value for name, value in vars(row).items() if value not in (None, ())})


def _row(text: str) -> Row:
    return Row(**{"answer": "", "question": "", **{name: _tuples(value) for name, value in json.loads(text).items()}})


def _tuples(value: Any) -> Any:
    """JSON has lists where a row has tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
