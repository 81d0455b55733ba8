"""Whether a file that the server follows has changed."""

from pathlib import Path


def stamp(path: Path) -> tuple[int, int] | None:
    """Changes with the file; None where there is none that could be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
