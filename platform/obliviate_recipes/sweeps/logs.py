"""Trials for other tools to look at: TensorBoard with HParams, and the tracker that the config names."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from obliviate import storage
from obliviate.tracking import TrackingSpec
from obliviate_recipes.sweeps.records import TRIALS, TrialRecord
from obliviate_recipes.sweeps.spec import SweepRun
from obliviate_recipes.tracking.board import Begun, Ended, first_line, open_board
from obliviate_recipes.tracking.folder import State, numbers

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"  # folder in that of the sweep, one below it for each trial


class TrialLog(Protocol):
    def trial(self, record: TrialRecord) -> None:
        """Told of every trial that ended, however it did."""
        ...


def open_logs(directory: Path, config: SweepRun) -> Sequence[TrialLog]:
    """Raises UserError where a tracker is asked for that cannot be used."""
    logs: list[TrialLog] = [_TensorBoard(directory / TENSORBOARD)]
    if config.tracking is not None:
        logs.append(_Tracked(config.tracking, directory))
    return logs


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def trial(self, record: TrialRecord) -> None:
        # One that crashed may end well when the same command tries it again: then it has two folders.
        folder = self._folder / (record.id if record.settled else f"{record.id}-{record.status}")
        if folder.exists():  # written by the run that is being resumed
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder)) as board:
            for signal in record.signals:
                for name in ("signal", "forget_probability", "retain_probability"):
                    if signal[name] is not None:
                        board.add_scalar(name, signal[name], signal["step"])
            board.add_hparams(_parameters(record), _figures(record), run_name=".")
        storage.upload_tree(folder)


class _Tracked:
    def __init__(self, spec: TrackingSpec, directory: Path) -> None:
        self._board, self._directory = open_board(spec, directory.parent), directory
        self._name, self._place = spec.type, json.dumps(spec.model_dump(mode="json"), sort_keys=True)

    def trial(self, record: TrialRecord) -> None:
        """Once, of a sweep that is resumed too; and again where it has ended otherwise."""
        state = State(self._directory / TRIALS / f".{record.id}.tracked", self._place)
        if state.ended == record.status:
            return
        sweep = self._directory.name
        begun = Begun(f"{sweep}-{record.id}", record.id, "trial", sweep, _parameters(record), state.known)
        texts = {"ended": record.status} | ({"cause": record.cause} if record.cause else {})
        failed = record.status not in ("done", "stopped")
        try:
            opened = self._board.open(begun)
            for signal in record.signals:
                opened.step(signal["step"], numbers({key: each for key, each in signal.items() if key != "step"}))
            opened.end(Ended(_figures(record), texts, failed=failed))
        except Exception as error:  # each tracker's library has errors of its own
            told = "the same command logs it later"
            log.warning("%s: trial %s is not logged (%s): %s", self._name, record.id, first_line(error), told)
        else:
            state.ended = record.status
            state.write()


def _parameters(record: TrialRecord) -> dict[str, Any]:
    """What TensorBoard takes: numbers, booleans and texts."""
    shown = {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in
             record.values.items()}  # fmt: skip
    return {"method": record.method, "seed": record.seed, **shown}


def _figures(record: TrialRecord) -> dict[str, float]:
    found = {"forget": record.forget, "utility": record.utility, "survives": record.survives}
    return {name: value for name, value in found.items() if value is not None} | {"steps": float(record.steps)}
