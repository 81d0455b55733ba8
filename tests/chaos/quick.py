"""The same commands without Ray, each a process forked from one that has loaded the libraries: a try takes seconds."""

import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from pathlib import Path

import pytest

from chaos.scenes import ENDS_WITHIN_S, Scene

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["obliviate_cli.main", "obliviate.train.here", "obliviate.inference.hf", "obliviate_recipes.attacking",
     "obliviate_recipes.comparison", "obliviate_recipes.requests.runner", "obliviate_recipes.stages.measure"]
)  # fmt: skip


def load() -> None:
    """What all processes are forked from, which takes as long as the libraries do."""
    process = PROCESSES.Process(target=str)
    process.start()
    process.join()


class Quick:
    """One process of a scene's command."""

    def __init__(self, scene: Scene, name: str = "first") -> None:
        """`name` tells it from others at the same time."""
        self._scene = scene
        self.log = scene.folder.with_suffix(f".{name}.log")
        self.process = PROCESSES.Process(target=command, args=(scene, self.log))

    def run(self) -> int | None:
        self.process.start()
        return self.wait()

    def wait(self) -> int | None:
        """The exit code, or minus the signal that ended it."""
        self.process.join(ENDS_WITHIN_S)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"{self._scene.verb} did not end: {self.said[-500:]}")
        return self.process.exitcode

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def forked(scene: Scene) -> int:
    """The exit code of the command in a child of this process, which sees what this one has mounted."""
    child = os.fork()
    if child == 0:
        try:
            command(scene, Quick(scene).log)
        except SystemExit as exit_:
            os._exit(int(exit_.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(scene: Scene, log: Path) -> None:
    """The target of a process: what `obliviate VERB config.yaml` does, in it alone."""
    import torch

    from alone import alone
    from obliviate_cli.main import main

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    tempfile.tempdir = str(scene.scratch)
    os.chdir(scene.folder)
    torch.set_num_threads(1)  # as workers of half a core have
    alone(pytest.MonkeyPatch())
    sys.argv = scene.command
    try:
        main()
    except KeyboardInterrupt:  # before the command has begun, or after it has ended
        sys.exit(130)


if __name__ == "__main__":  # where what it is forked from would not do
    asked: Scene = pickle.loads(Path(sys.argv[1]).read_bytes())
    command(asked, Quick(asked).log)
