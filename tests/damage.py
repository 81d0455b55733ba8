"""What disks, copies and full volumes do to a file."""

from collections.abc import Callable
from pathlib import Path


def flip(path: Path) -> None:
    """One bit, in the middle; the size and, as a disk would leave it, nothing else tells."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


WAYS: tuple[Callable[[Path], None], ...] = (flip, cut, empty, delete)
