"""What the bytes of files come to: a disk, a network or a copy may change some and say nothing.

The hash is XXH3 in 128 bits, as fast as memory: it finds damage. It proves nothing against intent, for which a run is
known by its `content`.

Of safetensors it is taken of the header and of each tensor, and then of these: a writer that gets tensors in any order
knows it without reading the file again.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from xxhash import xxh3_128, xxh3_128_hexdigest

DIGESTS = ".digests.json"  # of a folder that is written whole: what `list_folder` finds in it
WRITTEN = ".written.json"  # the same of those files whose writer knows it, until the folder is whole
NOTES = ("README.md", "measured.json", "attacked.json")  # cards, written again whenever something is measured
SEAL = "digest"  # key of a value's own hash
HEADER_BYTES_AT_MOST = 100 * 10**6  # that safetensors allows
PIECE_BYTES = 1 << 22
Listed = Mapping[str, tuple[int, str]]  # name -> bytes, digest


def digest(path: Path) -> str:
    """Of a file, as hex. Read once, as long as neither its size nor its time changes."""
    stat = path.stat()
    return _digest(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _digest(path: Path, *_: int) -> str:
    with path.open("rb") as stream:
        return digest_of(stream, path.name)


def digest_of(stream: BinaryIO, name: str) -> str:
    """Of what is left of a stream, as of a file of that name."""
    if not name.endswith(".safetensors"):
        return _rest(stream, xxh3_128()).hexdigest()
    head = stream.read(8)
    length = int.from_bytes(head, "little")
    head += stream.read(min(length, HEADER_BYTES_AT_MOST))
    try:
        entries = json.loads(head[8:])
        sizes = sorted(tuple(entries[name]["data_offsets"]) for name in entries if name != "__metadata__")
        parts = [_part(stream, end - begin) for begin, end in sizes]
    except (ValueError, KeyError, TypeError, AttributeError):  # no header: no safetensors, or no longer
        return _rest(stream, xxh3_128(head)).hexdigest()
    return combined(head, parts)


def combined(head: bytes, parts: Iterable[bytes]) -> str:
    """Of safetensors: `parts` are the tensors' digests, in the order of their bytes."""
    return xxh3_128_hexdigest(b"".join((xxh3_128(head).digest(), *parts)))


class Hashing(RawIOBase):
    """A stream to write to, whose bytes are hashed on their way to another one."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._hash = stream, xxh3_128()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        written: int = self._stream.write(data)
        return written

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        place: int = self._stream.tell()
        return place

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def fileno(self) -> int:
        self._stream.flush()  # whoever asks is about to have it put on disk
        number: int = self._stream.fileno()
        return number

    @property
    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def list_folder(folder: Path) -> None:
    """Write down what the folder holds, notes and hidden files aside: its last file."""
    known, written = {}, folder / WRITTEN
    if written.exists():
        known = read_listed(written.read_bytes())
        written.unlink()
    files = {name: folder / name for name in sizes(folder) if is_listed(name)}
    found = {name: known.get(name) or (file.stat().st_size, digest(file)) for name, file in files.items()}
    write_listed(folder / DIGESTS, found)


def write_listed(path: Path, listed: Listed) -> None:
    path.write_text(json.dumps(sealed({"files": listed}), indent=1), encoding="utf-8")


def read_listed(text: bytes) -> dict[str, tuple[int, str]]:
    """Raises ValueError where it is damaged."""
    try:
        files = unsealed(text)["files"]
        return {name: (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("lists no files") from error


def sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes of all files below."""
    found = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
        except FileNotFoundError:  # somebody works in there
            continue
    return found


def is_listed(name: str) -> bool:
    *_, last = parts = name.split("/")
    return last not in NOTES and not any(part.startswith(".") for part in parts)


def damage(listed: Listed, sizes: Mapping[str, int], digest: Callable[[str], str] | None) -> dict[str, str]:
    """Name of a file -> what is wrong with it. Without `digest`, which reads a file, by the sizes alone."""
    found = {}
    for name, (size, known) in listed.items():
        if name not in sizes:
            found[name] = "is missing"
        elif sizes[name] != size:
            found[name] = f"has {sizes[name]} of {size} bytes"
        elif digest is not None and digest(name) != known:
            found[name] = "is not as it was written"
    return found


def damage_of_folder(folder: Path) -> dict[str, str]:
    """Of one that was written whole, all of it read; nothing is known of one without a list."""
    if not (folder / DIGESTS).exists():
        return {}
    try:
        listed = read_listed((folder / DIGESTS).read_bytes())
    except ValueError:
        return {DIGESTS: "is not as it was written"}
    return damage(listed, sizes(folder), lambda name: digest(folder / name))


def is_sound(folder: Path) -> bool:
    """Whether it is there, and, if it was written whole, as it was."""
    return folder.exists() and not damage_of_folder(folder)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON has it, with its own hash."""
    plain = json.loads(json.dumps(value))  # whose keys are texts, and sorted as such
    return {**plain, SEAL: _seal(plain)}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """What was sealed, from its JSON. One without a seal, as they were before, is taken as it is.

    Raises ValueError where it is damaged.
    """
    value: dict[str, Any] = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("is no mapping")
    seal = value.pop(SEAL, None)
    if seal is not None and seal != _seal(value):
        raise ValueError("is not as it was written")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    return xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())


def _part(stream: BinaryIO, size: int) -> bytes:
    found = xxh3_128()
    while size > 0 and (piece := stream.read(min(size, PIECE_BYTES))):
        found.update(piece)
        size -= len(piece)
    return found.digest()


def _rest(stream: BinaryIO, begun: xxh3_128) -> xxh3_128:
    while piece := stream.read(PIECE_BYTES):
        begun.update(piece)
    return begun
