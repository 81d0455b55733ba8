"""What a file holds, as a hash of all of it: read once, and then remembered by the file's path, size and time.

A model is known by what it is, not by when it came: a copy of it, or a package that was installed anew, is the same.
"""

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from obliviate.runs import write_json
from obliviate.storage import user_cache


def fingerprint(path: Path) -> str:
    """SHA-256 of the file's bytes, as hex."""
    found = path.resolve()
    stat = found.stat()
    return _fingerprint(str(found), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _fingerprint(path: str, size: int, time_ns: int) -> str:
    of = {"path": path, "size": size, "time_ns": time_ns}
    memory = user_cache() / "fingerprints" / f"{hashlib.sha256(path.encode()).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):  # as good as none
        known = json.loads(memory.read_text(encoding="utf-8"))
        if {key: known[key] for key in of} == of:
            return str(known["sha256"])
    with Path(path).open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    with suppress(OSError):  # a home that cannot be written to: it is read again
        write_json(memory, {**of, "sha256": digest})
    return digest
