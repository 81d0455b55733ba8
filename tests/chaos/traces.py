"""What commands leave behind: processes, shared memory, and temporary files.

Every process of a try, and whatever it starts, has MARK in its environment, with the try's own folder for temporary
files; so they are told from those of others on this machine.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "OBLIVIATE_CHAOS"
SHARED_MEMORY = Path("/dev/shm")
ENDS_WITHIN_S = 60.0  # processes of Ray's follow their driver when they notice


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for temporary files, with a short name: it becomes part of sockets' paths."""
    folder = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path) -> dict[str, str]:
    """Of a command whose temporary files, and those of Ray, lie in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
    return {**inherited, MARK: str(folder), "TMPDIR": str(folder), "RAY_TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}


def marked(folder: Path) -> list[psutil.Process]:
    """Living processes of commands whose temporary files lie in `folder`."""
    return [process for process in psutil.process_iter() if _is_marked(process, folder)]


def _is_marked(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # ended meanwhile
        return False


class Traces:
    """Of one command, or of several that follow each other: what there is more than when it was made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared, self._temporary = _shared(), _temporary(folder)

    def left(self) -> list[str]:
        """After all processes have had the time to end. Those that have not are killed."""
        _, alive = psutil.wait_procs(marked(self._folder), timeout=ENDS_WITHIN_S)
        found = [f"process {process.pid}: {' '.join(process.cmdline())[:80]}" for process in alive]
        for process in alive:
            process.kill()
        found += [f"shared memory: {name}" for name in sorted(_shared() - self._shared) if not _is_used(name)]
        return found + [f"temporary file: {name}" for name in sorted(_temporary(self._folder) - self._temporary)]


def _shared() -> set[str]:
    return set(os.listdir(SHARED_MEMORY))


def _is_used(name: str) -> bool:
    """Whether a living process has it: then it is of another command than ours."""
    place = str(SHARED_MEMORY / name)
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if place in maps.read_text():
                return True
        except OSError:  # ended meanwhile
            continue
    return False


def _temporary(folder: Path) -> set[str]:
    """All but what Ray keeps of every session, its logs above all, for whoever looks for a cause."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir() and path.relative_to(folder).parts[0] != "ray"
    }
