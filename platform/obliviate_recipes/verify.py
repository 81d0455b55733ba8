"""`obliviate verify`: whether the files of runs are still those that were written."""

from collections.abc import Sequence
from pathlib import Path

from obliviate import storage
from obliviate.digests import DIGESTS, damage, read_listed
from obliviate.errors import UserError
from obliviate.runs import DONE_FILE, RUN_FILE, Run
from obliviate_recipes.events import Events

UNLISTED = (
    "has no list of its files: it is not finished, its command writes it anew each time, or it was made before files "
    "were listed"
)
REMEDY = ": remove a damaged run, and the command that made it makes it again"


def verify(given: Sequence[Path], events: Events) -> bool:
    """Read all files of these runs, or of the runs in these folders; each that is not as it was is told in a line.

    Raises UserError where there is no run.
    """
    whole = damaged = unlisted = 0
    for path in given:
        for folder in _runs_in(storage.local(path).expanduser().absolute()):
            found = _damage(folder)
            for file, what in (found or {}).items():
                events.warned(f"{storage.name(folder)}: {file} {what}")
            if found is None:
                events.said(f"{storage.name(folder)}: {UNLISTED}")
            whole, damaged, unlisted = whole + (found == {}), damaged + bool(found), unlisted + (found is None)
    counts = f"{whole} whole, {damaged} damaged" + (f", {unlisted} without a list" if unlisted else "")
    events.said(f"{counts}{REMEDY if damaged else ''}")
    return not damaged


def _runs_in(path: Path) -> list[Path]:
    """The folders of runs, and of models that were written whole outside of any; itself where it is one."""
    marks = (f"/{name}" for name in sorted(storage.sizes(path)))
    ends = tuple(f"/{name}" for name in (RUN_FILE, DONE_FILE, DIGESTS))
    found: list[Path] = []
    for mark in marks:
        folder = path / mark.rpartition("/")[0].removeprefix("/")
        inside = any(folder.is_relative_to(each) for each in found)
        if mark.endswith(ends) and not inside and not any(part.startswith(".") for part in mark.split("/")[:-1]):
            found.append(folder)
    if not found:
        raise UserError(f"{storage.name(path)}: no run in it; give folders of runs, or the one that they are in")
    return found


def _damage(folder: Path) -> dict[str, str] | None:
    """None where nothing is listed."""
    run = Run(storage.fetch_loose(folder), "")
    if run.marked:
        found = run.damage(read=True)
        return found if found or run.files else None
    if (folder / RUN_FILE).exists():
        return None
    try:
        listed = read_listed(storage.read_bytes(folder / DIGESTS))
    except ValueError:
        return {DIGESTS: "is not as it was written"}
    return damage(listed, storage.sizes(folder), lambda file: storage.digest(folder / file, stored=True))
