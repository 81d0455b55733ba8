"""What a run writes of its steps: one JSON line each, and the same numbers for TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from obliviate import storage
from obliviate.digests import sealed, unsealed
from obliviate.errors import writing
from obliviate.runs import MISHAPS_FILE, write_whole
from obliviate.runs import STEPS_FILE as STEPS_FILE

PUBLISH_EVERY_S = 15.0  # of a run in an object store, which takes whole files alone
TENSORBOARD = "tensorboard"
HELD_OUT = ("kl", "forget", "retain", "score", "refused")  # what is measured between steps


class StepLog:
    """Of the first worker. Steps that will be done again after a resume are dropped from both logs first."""

    def __init__(self, directory: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = storage.fetch(directory / STEPS_FILE)
        self._published_s = monotonic()
        kept = [line for line in read_steps(directory) if line["step"] <= start]
        write_whole(self._path, lambda path: path.write_text("".join(map(_line, kept))))
        self._board = SummaryWriter(str(directory / TENSORBOARD), purge_step=start + 1)

    def write(self, metrics: Mapping[str, Any]) -> None:
        with writing(self._path), self._path.open("a", encoding="utf-8") as handle:
            handle.write(_line(metrics))
        if monotonic() - self._published_s >= PUBLISH_EVERY_S:
            self.publish()
        scalars = {name: metrics[name] for name in ("loss", "learning_rate", "grad_norm", "tokens_per_s")}
        scalars |= {f"loss/{term}": part for term, part in metrics["parts"].items()}
        scalars |= {f"weight/{term}": weight for term, weight in metrics["weights"].items()}  # dual variables move
        held_out = metrics.get("held_out", {})
        scalars |= {f"held_out/{name}": held_out[name] for name in HELD_OUT if held_out.get(name) is not None}
        for name, value in scalars.items():
            self._board.add_scalar(name, value, metrics["step"])

    def publish(self) -> None:
        """Where others see it: before a checkpoint, which a run may go on from elsewhere, and now and then."""
        storage.upload(self._path)
        self._published_s = monotonic()

    def close(self) -> None:
        self._board.close()
        self.publish()
        storage.upload_tree(self._path.parent / TENSORBOARD)


def mishap(directory: Path, text: str) -> None:
    """Of the first worker: something that the run went on from, for the one who started it, and for the report."""
    path = storage.fetch(directory / MISHAPS_FILE)
    with writing(path), path.open("a", encoding="utf-8") as handle:
        handle.write(f"{text}\n")
    storage.upload(path)


def mishaps(directory: Path) -> list[str]:
    path = directory / MISHAPS_FILE
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def term_names(types: Sequence[str]) -> list[str]:
    """Of a method's terms, in order: their types; the second of one type is gd_2, for example."""
    earlier = [types[:i].count(name) for i, name in enumerate(types)]
    return [f"{name}_{count + 1}" if count else name for name, count in zip(types, earlier, strict=True)]


def read_steps(directory: Path) -> list[dict[str, Any]]:
    """The steps logged so far; a last line that is still being written is left out, as is one that is damaged: nothing
    is made of it."""
    path = directory / STEPS_FILE
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with suppress(ValueError):
            found.append(unsealed(line))
    return found


def _line(metrics: Mapping[str, Any]) -> str:
    return json.dumps(sealed(metrics)) + "\n"
