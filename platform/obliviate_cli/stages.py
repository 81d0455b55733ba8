"""The stages of the main job. Each is a run: content-addressed, resumable, and done at most once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from obliviate import storage
from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.data.refusals import load_refusals
from obliviate.data.rows import Corpus, Row, require_training_texts
from obliviate.errors import UserError
from obliviate.methods import GD, Pass
from obliviate.models import content_of, portable
from obliviate.runs import Run, content_hash
from obliviate.train.launch import launch
from obliviate.train.loop import CHECKPOINTS, Job
from obliviate_cli.alternatives import with_alternatives
from obliviate_cli.card import write_card
from obliviate_cli.progress import progress, training_details

MODEL = "model"  # the folder of the trained model in its run
# Left out of a run's content hash: what changes where and how fast it computes, but not what; and what says where texts
# come from, which enter by their content. So a changed evaluation set, or its limit, trains nothing again.
LEFT_OUT: dict[str, Any] = {
    **dict.fromkeys(("cluster", "runs", "name", "data", "alternatives"), True),
    "optim": {"micro_batch_size", "activation_checkpointing", "checkpoint_every_steps", "keep_checkpoints"},
}


def finetune(config: FinetuneRun, console: Console) -> Path:
    """Train on all rows or on the retain rows; the folder of the model."""
    corpus = _load(config, console)
    require_training_texts(corpus)
    rows = rows_to_learn(config, corpus)
    run = _open(config, "finetune", config.name or f"{config.data.type}-{config.train_on}", corpus)
    job = _job(config, run, terms=(GD(),), retain=rows, anchor=Pass.RETAIN)
    return _train(config, run, job, f"fine-tune on {config.train_on}", console)


def unlearn(config: UnlearnRun, console: Console) -> Path:
    """Unlearn the forget set; the folder of the model."""
    run, job = unlearn_job(config, _load(config, console), console)
    return _train(config, run, job, f"unlearn with {config.label}", console)


def unlearn_job(config: UnlearnRun, corpus: Corpus, console: Console) -> tuple[Run, Job]:
    """The run of this config, found or created, and what there is to train in it."""
    require_training_texts(corpus)
    check_retain(config, corpus)
    corpus = with_alternatives(config, corpus, console)
    refusals = load_refusals(config.refusals)
    files = {} if config.refusals is None else {"refusals": content_hash(refusals)}
    if config.reference is not None:
        files["reference"] = content_of(config.reference)
    run = _open(config, "unlearn", config.name or f"{config.label}-{config.data.type}", corpus, **files)
    job = _job(
        config,
        run,
        terms=config.terms,
        forget=corpus.forget,
        retain=corpus.retain,
        refusals=refusals,
        pairing=config.pairing,
        reference=None if config.reference is None else portable(config.reference),
    )
    return run, job


def rows_to_learn(config: FinetuneRun, corpus: Corpus) -> tuple[Row, ...]:
    """Raises UserError where there are none."""
    rows = corpus.retain if config.train_on == "retain" else (*corpus.forget, *corpus.retain)
    if not rows:
        raise UserError("train_on: retain: the data has no retain set; give data.retain, or train_on: all")
    return rows


def check_retain(config: UnlearnRun, corpus: Corpus) -> None:
    """Raises UserError where a term trains on retain rows and there are none."""
    if config.needs_retain and not corpus.retain:
        raise UserError(
            f"method: {config.label} needs a retain set and the data has none; give data.retain, or a method that "
            "works without: ga, npo, dpo, idk or me alone"
        )


def resolved(config: TrainingRun) -> dict[str, Any]:
    """What determines the result, beside the texts and the model's weights."""
    return config.model_dump(mode="json", exclude=LEFT_OUT)


def _load(config: TrainingRun, console: Console) -> Corpus:
    corpus = config.data.load()
    for warning in corpus.warnings:
        console.print(f"warning: {warning}", style="yellow")
    return corpus


def _open(config: TrainingRun, verb: str, label: str, corpus: Corpus, **files: str) -> Run:
    """`files`: hashes of what the config names by path."""
    inputs = {"model": content_of(config.model), "data": corpus.training_content, **files}
    whole = config.model_dump(mode="json")
    return Run.open(Path(config.runs), verb, label, resolved(config), inputs, whole_config=whole)


def _job(config: TrainingRun, run: Run, **fields: Any) -> Job:
    defaults: Mapping[str, Any] = {"forget": (), "retain": (), "refusals": (), "pairing": "fresh"}
    model = portable(config.model)  # workers have another working directory
    return Job(model=model, optim=config.optim, seed=config.seed, directory=run.directory, **{**defaults, **fields})


def _train(config: TrainingRun, run: Run, job: Job, title: str, console: Console) -> Path:
    folder = run.directory / MODEL
    if run.done:
        console.print(f"{title}: done already, in {storage.name(run.directory)}")
        return folder
    with run.locked():
        with progress(console, title) as show:
            launch(job, config.cluster, folder, lambda step: show(step["step"], step["steps"], training_details(step)))
        storage.fetch_loose(run.directory)  # the steps, where a worker on another node has logged them
        finish(run, job)
    return folder


def finish(run: Run, job: Job) -> None:
    """Mark a run whole whose model is written."""
    write_card(run, MODEL)
    run.finish(model=MODEL, steps=job.schedule.steps)
    storage.remove(run.directory / CHECKPOINTS)  # three times the model's size, and of no more use
