"""Trackio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obliviate.tracking import TrackioTracking
from obliviate_recipes.tracking.board import Begun, Ended, Log, library, parameters


class _Log:
    def __init__(self, run: Any, begun: Begun) -> None:
        self._run, self._begun = run, begun

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, ended: Ended) -> None:
        self._run.log({**ended.figures, **ended.texts})
        if ended.files:
            trackio = library("trackio")
            report = trackio.Artifact(f"{self._begun.kind}-{self._begun.id[-10:]}", type="report")
            for file in ended.files:
                report.add_file(str(file))
            self._run.log_artifact(report)
        self._run.finish()

    def leave(self) -> None:
        self._run.finish()


class _Board:
    def __init__(self, trackio: Any, spec: TrackioTracking) -> None:
        self._trackio, self._spec = trackio, spec

    def open(self, begun: Begun) -> Log:
        run = self._trackio.init(
            project=self._spec.project, name=begun.id, group=begun.group, space_id=self._spec.space,
            config=parameters(begun.config), resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        return _Log(run, begun)


def open_board(spec: TrackioTracking, runs: Path) -> _Board:
    return _Board(library("trackio"), spec)
