"""The stages of the main job. Each is a run: content-addressed, resumable, and done at most once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.data.refusals import load_refusals
from obliviate.data.rows import Corpus
from obliviate.errors import UserError
from obliviate.methods import GD, Pass
from obliviate.models import content_of
from obliviate.runs import Run
from obliviate.train.launch import launch
from obliviate.train.loop import Job
from obliviate_cli.card import write_card
from obliviate_cli.progress import progress, training_details

MODEL = "model"  # the folder of the trained model in its run
# What changes where and how fast a run computes, but not what: left out of its content hash.
PLACEMENT: dict[str, Any] = {
    **dict.fromkeys(("cluster", "runs", "name"), True),
    "optim": {"micro_batch_size", "activation_checkpointing", "checkpoint_every_steps", "keep_checkpoints"},
}


def finetune(config: FinetuneRun, console: Console) -> Path:
    """Train on all rows or on the retain rows; the folder of the model."""
    corpus = _load(config, console)
    rows = corpus.retain if config.train_on == "retain" else (*corpus.forget, *corpus.retain)
    if not rows:
        raise UserError(f"train_on: {config.train_on}: the data has no such rows; give data.retain or train_on: all")
    run = _open(config, "finetune", config.name or f"{config.data.type}-{config.train_on}", corpus)
    job = _job(config, run, terms=(GD(),), retain=rows, anchor=Pass.RETAIN)
    return _train(config, run, job, f"fine-tune on {config.train_on}", console)


def unlearn(config: UnlearnRun, console: Console) -> Path:
    """Unlearn the forget set; the folder of the model."""
    corpus = _load(config, console)
    if config.needs_retain and not corpus.retain:
        raise UserError(
            f"method: {config.label} needs a retain set and the data has none; give data.retain, or drop it"
        )
    run = _open(config, "unlearn", config.name or f"{config.label}-{config.data.type}", corpus)
    job = _job(
        config,
        run,
        terms=config.terms,
        forget=corpus.forget,
        retain=corpus.retain,
        refusals=load_refusals(config.refusals),
        pairing=config.pairing,
    )
    return _train(config, run, job, f"unlearn with {config.label}", console)


def resolved(config: TrainingRun) -> dict[str, Any]:
    """What determines the result."""
    return config.model_dump(mode="json", exclude=PLACEMENT)


def _load(config: TrainingRun, console: Console) -> Corpus:
    corpus = config.data.load()
    for warning in corpus.warnings:
        console.print(f"[yellow]warning:[/] {warning}", highlight=False)
    return corpus


def _open(config: TrainingRun, verb: str, label: str, corpus: Corpus) -> Run:
    inputs = {"model": content_of(config.model), "data": corpus.content}
    return Run.open(Path(config.runs), verb, label, resolved(config), inputs)


def _job(config: TrainingRun, run: Run, **fields: Any) -> Job:
    defaults: Mapping[str, Any] = {"forget": (), "retain": (), "refusals": (), "pairing": "fresh"}
    return Job(
        model=config.model, optim=config.optim, seed=config.seed, directory=run.directory, **{**defaults, **fields}
    )


def _train(config: TrainingRun, run: Run, job: Job, title: str, console: Console) -> Path:
    folder = run.directory / MODEL
    if run.done:
        console.print(f"{title}: done already, in {run.directory}", highlight=False)
        return folder
    with progress(console, title) as show:
        launch(job, config.cluster, folder, lambda step: show(step["step"], step["steps"], training_details(step)))
    write_card(run, MODEL)
    run.finish(model=MODEL, steps=job.schedule.steps)
    return folder
