"""Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obliviate.errors import UserError
from obliviate.tracking import WandbTracking
from obliviate_recipes.tracking.board import Begun, Ended, Log, first_line, library


class _Log:
    def __init__(self, wandb: Any, run: Any, begun: Begun) -> None:
        self._wandb, self._run, self._begun = wandb, run, begun

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, ended: Ended) -> None:
        self._run.summary.update({**ended.figures, **ended.texts})
        if ended.files:
            report = self._wandb.Artifact(f"{self._begun.kind}-{self._begun.id[-10:]}", type="report")
            for file in ended.files:
                report.add_file(str(file), policy="immutable")
            self._run.log_artifact(report)
        self._run.finish(exit_code=int(ended.failed))

    def leave(self) -> None:
        self._run.finish(exit_code=1)


class _Board:
    def __init__(self, wandb: Any, spec: WandbTracking, folder: Path) -> None:
        self._wandb, self._spec, self._folder = wandb, spec, folder

    def open(self, begun: Begun) -> Log:
        run = self._wandb.init(
            project=self._spec.project, entity=self._spec.entity, mode=self._spec.mode, dir=str(self._folder),
            id=begun.id, name=begun.name, group=begun.group, job_type=begun.kind, config=dict(begun.config),
            resume="allow", reinit="create_new", settings=self._wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        return _Log(self._wandb, run, begun)


def open_board(spec: WandbTracking, runs: Path) -> _Board:
    wandb = library("wandb")
    if spec.mode == "online":
        try:
            ready = wandb.login(prompt=False)
        except Exception as error:
            raise UserError(f"tracking: wandb: {first_line(error)}; or set tracking.mode=offline") from error
        if not ready:
            raise UserError(
                "tracking: wandb: nobody is logged in; run `wandb login`, set WANDB_API_KEY, or tracking.mode=offline"
            )
    runs.mkdir(parents=True, exist_ok=True)
    return _Board(wandb, spec, runs)
