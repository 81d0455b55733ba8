"""`obliviate verify`: whether the files of runs are still those that were written."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from obliviate import storage
from obliviate.digests import DIGESTS, damage, read_listed
from obliviate.errors import UserError
from obliviate.runs import DONE_FILE, RUN_FILE, Run
from obliviate_recipes.events import Events


def verify(given: Sequence[Path], events: Events) -> bool:
    """Read all files of these runs, or of the runs in these folders; each that is not as it was is told in a line.

    Raises UserError where there is no run.
    """
    whole = damaged = 0
    for path in given:
        for folder in _runs_in(storage.local(path).expanduser().absolute()):
            lines = list(_damage(folder, events))
            for line in lines:
                events.warned(line)
            damaged, whole = damaged + bool(lines), whole + (not lines)
    events.said(f"{whole} whole, {damaged} damaged{REMEDY if damaged else ''}")
    return not damaged


REMEDY = ": remove a damaged run, and the command that made it makes it again"


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


def _damage(folder: Path, events: Events) -> Iterator[str]:
    name, run = storage.name(folder), Run(storage.fetch_loose(folder), "")
    if run.marked:
        yield from (f"{name}: {file} {what}" for file, what in run.damage(read=True).items())
        if not run.damage() and not run.files:
            events.said(f"{name}: was made before a run's files were listed: there is nothing to compare them with")
    elif (folder / RUN_FILE).exists():
        events.said(f"{name}: is not finished: its command goes on with it, and looks at its checkpoints itself")
    else:
        try:
            listed = read_listed(storage.read_bytes(folder / DIGESTS))
        except ValueError:
            yield f"{name}: {DIGESTS} is not as it was written"
            return
        found = damage(listed, storage.sizes(folder), lambda file: storage.digest(folder / file, stored=True))
        yield from (f"{name}: {file} {what}" for file, what in found.items())
