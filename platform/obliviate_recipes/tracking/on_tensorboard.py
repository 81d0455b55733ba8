"""Event files, a folder for each run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from obliviate import storage
from obliviate.tracking import TensorBoardTracking
from obliviate_recipes.tracking.board import Begun, Ended, Log, parameters

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class _Log:
    def __init__(self, board: "SummaryWriter", folder: Path, begun: Begun) -> None:
        self._board, self._folder, self._begun = board, folder, begun
        if not begun.resumed:
            board.add_text("config", f"```yaml\n{yaml.safe_dump(dict(begun.config), sort_keys=False)}```")

    def step(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def end(self, ended: Ended) -> None:
        for name, text in (*ended.texts.items(), *((file.name, storage.name(file)) for file in ended.files)):
            self._board.add_text(name, text)
        # The figures are scalars by this: TensorBoard compares runs by their parameters with them.
        self._board.add_hparams(parameters(self._begun.config), dict(ended.figures), run_name=".")
        self.leave()

    def leave(self) -> None:
        self._board.close()
        storage.upload_tree(self._folder)


class _Board:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, begun: Begun) -> Log:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._folder / begun.id
        return _Log(SummaryWriter(str(folder)), folder, begun)


def open_board(spec: TensorBoardTracking, runs: Path) -> _Board:
    return _Board(runs / "tensorboard" if spec.folder is None else storage.local(spec.folder).absolute())
