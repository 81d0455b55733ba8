"""GGUF files, opened quickly: the gguf package's reader makes several arrays of every token and merge of a vocabulary,
seconds each time, and transformers opens a file for the config, the tokenizer and the weights."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def quick_gguf(keywords: dict[str, Any]) -> Iterator[None]:
    """While it lasts, transformers opens the GGUF file that the keywords of its `from_pretrained` name with our reader;
    where they name none, nothing changes."""
    if "gguf_file" not in keywords:
        yield
        return
    import gguf

    theirs = gguf.GGUFReader
    gguf.GGUFReader = _quick_reader()
    try:
        yield
    finally:
        gguf.GGUFReader = theirs


@cache
def _quick_reader() -> Any:
    import numpy as np
    from gguf import GGUFReader, GGUFValueType

    class QuickReader(GGUFReader):  # type: ignore[misc]
        """The entries of a list are cut out of the file's bytes as they lie there; all else is read as the package
        does, and so are files in the other byte order."""

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
                return super()._get_field_parts(orig_offs, raw_type)
            of = GGUFValueType(self._get(orig_offs, np.uint32)[0])
            count, at = int(self._get(orig_offs + 4, np.uint64)[0]), orig_offs + 12
            entries: list[Any] = []
            if (dtype := self.gguf_scalar_to_np.get(of)) is not None:
                numbers = np.asarray(self._get(at, dtype, count))
                entries, at = list(numbers[:, None]), at + numbers.nbytes
            elif of == GGUFValueType.STRING:
                data = memoryview(self.data)
                for _ in range(count):
                    start = at + 8  # behind its length
                    at = start + struct.unpack_from("=Q", data, at)[0]
                    entries.append(data[start:at])
            else:  # lists of lists
                return super()._get_field_parts(orig_offs, raw_type)
            return at - orig_offs, entries, list(range(count)), [GGUFValueType.ARRAY, of] if count else [raw_type]

    return QuickReader
