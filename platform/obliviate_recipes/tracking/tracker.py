"""Whoever is told of a job, and a tracker beside: it shows runs while they are made, and those of before."""

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from obliviate import storage
from obliviate.config_file import RunSpec
from obliviate.train.log import read_steps
from obliviate_recipes.events import Draw, Events, Update
from obliviate_recipes.tracking import folder as content
from obliviate_recipes.tracking.board import Board, Log, first_line, open_board

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOKS_EVERY_S = 5.0  # at the log of a training


@contextmanager
def tracked(config: RunSpec, events: Events) -> Iterator[Events]:
    """`events`, and the tracker that the config names. Raises UserError where that cannot be used."""
    spec = getattr(config, "tracking", None)
    if spec is None:
        yield events
        return
    runs = storage.local(config.runs).absolute()  # type: ignore[attr-defined]
    place = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
    group = getattr(config, "title", "") or getattr(config, "name", "") or spec.project
    tracker = Tracker(open_board(spec, runs), spec.type, place, group, events)
    try:
        yield tracker
    finally:
        tracker.close()


class _Followed:
    """A run and its place at the tracker."""

    def __init__(self, log: Log, folder: Path, state: content.State) -> None:
        self.log, self.folder, self.state = log, folder, state

    def catch_up(self) -> None:
        """Tell the steps that were logged since."""
        new = [step for step in read_steps(self.folder) if step["step"] > self.state.step]
        for step in new:
            self.log.step(step["step"], content.of_step(step))
            self.state.step = step["step"]
        if new:
            self.state.write()


class Tracker:
    """Events that are passed on. What the tracker cannot take is told, and ends nothing: the same command tells it the
    rest."""

    def __init__(self, board: Board, name: str, place: str, group: str, events: Events) -> None:
        self._board, self._name, self._place, self._group, self._events = board, name, place, group, events
        self._made: set[Path] = set()  # runs that were begun and have not ended
        self._open: dict[Path, _Followed] = {}  # of these and others, those that the tracker shows
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="tracking", daemon=True)
        self._thread.start()

    def began(self, folder: Path) -> None:
        self._events.began(folder)
        with self._lock:
            self._made.add(folder)

    def ended(self, folder: Path) -> None:
        self._events.ended(folder)
        with self._lock, self._told(folder):
            self._made.discard(folder)
            if (followed := self._follow(folder)) is not None:
                del self._open[folder]
                followed.catch_up()
                followed.log.end(content.ended(folder))
                followed.state.ended = content.fingerprint(folder)
                followed.state.write()

    def close(self) -> None:
        """Runs that were begun and have not ended are left to the process that takes them up."""
        self._closed.set()
        self._thread.join()
        for folder in self._made:
            with self._told(folder):
                if (followed := self._follow(folder)) is not None:
                    followed.catch_up()
                    followed.log.leave()

    def _follow(self, folder: Path) -> _Followed | None:
        """None where there is nothing to show, or the tracker knows how it ended."""
        if folder not in self._open:
            state = content.State(folder / content.STATE, self._place)
            if not content.tells(folder) or state.ended == content.fingerprint(folder):
                return None
            log = self._board.open(content.begun(folder, self._group, resumed=state.known))
            self._open[folder] = _Followed(log, folder, state)
            state.write()
        return self._open[folder]

    def _look(self) -> None:
        while not self._closed.wait(LOOKS_EVERY_S):
            with self._lock:
                for folder in self._made:
                    with self._told(folder):
                        if (followed := self._follow(folder)) is not None:
                            followed.catch_up()

    @contextmanager
    def _told(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each tracker's library has errors of its own
            run, told = storage.name(folder), "the same command logs it later"
            self._events.warned(f"{self._name}: {run} is not logged ({first_line(error)}): {told}")

    def said(self, text: str) -> None:
        self._events.said(text)

    def warned(self, text: str) -> None:
        self._events.warned(text)

    def shown(self, table: "RenderableType") -> None:
        self._events.shown(table)

    def progressing(self, title: str) -> AbstractContextManager[Update]:
        return self._events.progressing(title)

    def watched(self) -> AbstractContextManager[Draw | None]:
        return self._events.watched()
