"""The stages of the main job. Each is a run: content-addressed, resumable, and done at most once."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from obliviate import fit, plugins, storage
from obliviate.arithmetic import negate
from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.data.refusals import load_refusals
from obliviate.data.rows import Corpus, Row, require_training_texts
from obliviate.data.world import load_world
from obliviate.errors import UserError
from obliviate.methods import GD, Pass
from obliviate.models import (
    content_of,
    date_warnings,
    load_tokenizer,
    materialise,
    portable,
    require_same_vocabulary,
    text_encoder,
    weights_folder,
)
from obliviate.rows_needed import check_rows
from obliviate.runs import EXPORT_FILE, Run, content_hash, record_of, write_whole
from obliviate.schema import ModelSpec
from obliviate.source import adapter_of, export_dtype
from obliviate.train.batch import micro_batch_count
from obliviate.train.job import CHECKPOINTS, Job
from obliviate.train.launch import launch
from obliviate.train.log import STEPS_FILE, read_steps
from obliviate_cli.alternatives import with_alternatives
from obliviate_cli.card import write_card
from obliviate_cli.forget_filter import with_filter
from obliviate_cli.judged import JUDGED
from obliviate_cli.nearness import drop_rule, nearest_retain
from obliviate_cli.progress import progress, training_details

MODEL = "model"  # the folder of the trained model in its run
# Left out of a run's content hash: what changes where and how fast it computes, but not what; and what says where texts
# come from, which enter by their content. So a changed evaluation set, or its limit, trains nothing again. With dropout
# the number of micro-batches comes back in.
LEFT_OUT: dict[str, Any] = {
    **dict.fromkeys(("cluster", "runs", "name", "data", "alternatives", "reinforcement"), True),
    "forget_filter": {"engine"},
    "optim": {"micro_batch_size", "activation_checkpointing", "checkpoint_every_steps", "keep_checkpoints"},
}


def finetune(config: FinetuneRun, console: Console) -> Path:
    """Train on the rows that the config names; the folder of the model."""
    return _finetune(config, _load(config, console), console)


def _finetune(config: FinetuneRun, corpus: Corpus, console: Console) -> Path:
    require_training_texts(corpus)
    rows = rows_to_learn(config, corpus)
    _check_model(config, rows)
    run = _open(config, "finetune", config.name or f"{config.data.type}-{config.train_on}", corpus)
    job = _job(config, run, terms=(GD(),), retain=rows, anchor=Pass.RETAIN)
    return _train(config, run, job, f"fine-tune on {config.train_on}", console)


def unlearn(config: UnlearnRun, console: Console) -> Path:
    """Unlearn the forget set; the folder of the model."""
    corpus = _load(config, console)
    trained = []
    for each in learnings(config):
        run, job = unlearn_job(each, corpus, console)
        _train(each, run, job, f"unlearn with {each.label}", console)
        trained.append(run)
    return outcome(config, *trained).directory / MODEL


def learnings(config: UnlearnRun) -> list[UnlearnRun]:
    """The trainings that make the model: one, but for a task vector that is learned at several rates."""
    if (negation := config.method.negation) is None:
        return [config]
    rates = (config.optim.learning_rate, *negation.learning_rates)
    optims = [config.optim.model_copy(update={"learning_rate": rate}) for rate in rates]
    return [config.model_copy(update={"optim": optim}) for optim in optims]


def unlearn_job(config: UnlearnRun, corpus: Corpus, console: Console) -> tuple[Run, Job]:
    """The run that trains for this config, found or created, and what there is to train in it."""
    require_training_texts(corpus)
    check_data(config, corpus)
    _check_model(config, (*corpus.forget, *corpus.retain))
    reinforcing, files = config.reinforcing, {}
    reinforced = None if reinforcing is None else like(config.model, _finetune(reinforcing, corpus, console))
    if reinforced is not None:
        files["reinforced"] = content_of(reinforced)
    corpus, judged = with_filter(config, corpus, console)
    check_data(config, corpus)  # of what the filter leaves
    corpus = with_alternatives(config, corpus, console)
    if _is_negated(config):
        original_weights(config.model, config.runs)  # what cannot be subtracted from is told before training
    refusals = load_refusals(config.refusals)
    if config.refusals is not None:
        files["refusals"] = content_hash(refusals)
    world = () if config.world is None else load_world(config.world)
    if world:
        files["world"] = content_hash([asdict(row) for row in world])
    if config.reference is not None:
        require_same_vocabulary(config.model, config.reference)
        fit.check(config.reference)
        files["reference"] = content_of(config.reference)
    if (code := plugins.content(config.terms)) is not None:
        files["code"] = code
    run = _open(config, "learn" if _is_negated(config) else "unlearn", _label(config), corpus, **files)
    if judged is not None:
        write_whole(run.directory / JUDGED, lambda path: path.write_bytes(judged.read_bytes()))
    job = _job(
        config,
        run,
        terms=config.terms,
        forget=corpus.forget,
        retain=corpus.retain,
        refusals=refusals,
        pairing=config.pairing,
        world=world,
        neighbours=nearest_retain(config, corpus),
        drop=drop_rule(config, corpus),
        updates=config.updates,
        forget_learning_rate=config.forget_learning_rate,
        sharpness=config.sharpness,
        projection=config.projection,
        rectification=config.rectification,
        reference=None if config.reference is None else portable(config.reference),
        reinforced=None if reinforced is None else portable(reinforced),
    )
    return run, job


def _check_model(config: TrainingRun, rows: Sequence[Row]) -> None:
    """Raises UserError for a model that cannot be trained on these texts, or not be written afterwards."""
    fit.check(config.model, trained=True)
    fit.check_rows(config.model, rows)
    fit.notes(config.model)


def like(model: ModelSpec, folder: Path) -> ModelSpec:
    """The trained model, laid out as its base was."""
    return model.model_copy(update={"source": storage.name(folder), "base": None, "lora": None, "revision": None})


def outcome(config: UnlearnRun, trained: Run, *again: Run) -> Run:
    """The run that holds the unlearned model: the trained one, or, of a task vector, one in which what was learned, in
    one training or several, is subtracted from the original."""
    if (negation := config.method.negation) is None:
        return trained
    inputs = record_of(trained.directory)["inputs"]
    inputs |= {f"learned_{place}": run.content for place, run in enumerate(again, 2)}
    determining, whole = config.model_dump(mode="json", exclude=LEFT_OUT), config.model_dump(mode="json")
    runs = Path(config.runs)
    run = Run.open(runs, "unlearn", _label(config), determining, {**inputs, "learned": trained.content},
                   whole_config=whole)  # fmt: skip
    with run.locked(wait=True):  # another sweep may be at the same scale
        if not run.done:
            learned = [storage.fetch(each.directory / MODEL) for each in (trained, *again)]
            original = original_weights(config.model, config.runs)
            negate(original, learned, negation.scale, run.directory / MODEL, export_dtype(config.model))
            for name in (STEPS_FILE, JUDGED):  # what training logged, and what it left out
                if (file := trained.directory / name).exists():
                    write_whole(run.directory / name, partial(shutil.copyfile, file))
            write_card(run, MODEL)
            run.finish(model=MODEL, learned=trained.directory.name, steps=trained.summary["steps"])
    return run


def opened_alike(model: ModelSpec, runs: str) -> ModelSpec:
    """As engines and trainings of all stages open it: a GGUF, or an adapter merged into its base, is written among the
    runs, once. With `lora` an adapter is trained as what it is, and stays it."""
    adapts = adapter_of(model) is not None
    if adapts and model.lora is not None:
        return model
    key = content_of(model) if adapts else content_hash(model.source)
    return model.at(materialise(model, storage.local(runs).absolute() / f"base-{key[:10]}"))


def original_weights(model: ModelSpec, runs: str) -> Path:
    """The folder that arithmetic with the model's weights reads: the model's own, or a copy among the runs."""
    return weights_folder(model, storage.local(runs).absolute() / f"base-{content_of(model)[:10]}")


def rows_to_learn(config: FinetuneRun, corpus: Corpus) -> tuple[Row, ...]:
    """Raises UserError where there are none."""
    of_forget = () if config.train_on == "retain" else corpus.forget
    rows = of_forget if config.train_on == "forget" else (*of_forget, *corpus.retain)
    if not rows:
        raise UserError("train_on: retain: the data has no retain set; give data.retain, or train_on: all")
    return rows


def check_data(config: UnlearnRun, corpus: Corpus) -> None:
    """Raises UserError where a term needs what the data does not have."""
    check_rows(config.terms, corpus.forget, corpus.retain, needs_retain=config.needs_retain)


def resolved(config: TrainingRun) -> dict[str, Any]:
    """What determines what training makes, beside the texts and the model's weights."""
    later: dict[str, Any] = (
        {"method": {"scale", "learning_rates"}, "model": {"export_dtype"}} if _is_negated(config) else {}
    )
    return config.model_dump(mode="json", exclude={**LEFT_OUT, **later}) | _of_dropout(config)


def _of_dropout(config: TrainingRun) -> dict[str, Any]:
    """Each micro-batch of a step draws its own dropout: what it is depends on how many there are."""
    lora, optim, workers = config.model.lora, config.optim, config.cluster.workers
    if lora is None or not lora.dropout:
        return {}
    if isinstance(config, UnlearnRun) and config.early_drop is not None:  # which makes steps of any length
        return {"micro_batches": {"size": optim.micro_batch_size, "workers": workers}}
    return {"micro_batches": micro_batch_count(optim.batch_size, optim.micro_batch_size, workers)}


def _is_negated(config: TrainingRun) -> bool:
    """Whether training learns what is subtracted afterwards."""
    return isinstance(config, UnlearnRun) and config.method.negation is not None


def _label(config: UnlearnRun) -> str:
    return config.name or f"{config.label}-{config.data.type}"


def text_warnings(model: ModelSpec, rows: Sequence[Row]) -> list[str]:
    """Of training texts that the model never sees whole, and of a template that was given a made-up date."""
    encoder = text_encoder(model, load_tokenizer(model))
    cut = sum(encoder.cuts(*row.saying(row.answer)) for row in rows)
    longer = f"{cut} of {len(rows)} training texts are cut at {model.max_length} tokens: raise model.max_length, or "
    return [*([f"{longer}split them"] if cut else []), *date_warnings(model, encoder)]


def _load(config: TrainingRun, console: Console) -> Corpus:
    corpus = config.data.load()
    _warn(corpus.warnings, console)
    return corpus


def _warn(warnings: Sequence[str], console: Console) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow")


def _open(config: TrainingRun, verb: str, label: str, corpus: Corpus, **files: str) -> Run:
    """`files`: hashes of what the config names by path."""
    inputs = {"model": content_of(config.model), "data": corpus.training_content, **files}
    whole = config.model_dump(mode="json")
    return Run.open(Path(config.runs), verb, label, resolved(config), inputs, whole_config=whole)


def _job(config: TrainingRun, run: Run, **fields: Any) -> Job:
    defaults: Mapping[str, Any] = {"forget": (), "retain": (), "refusals": (), "pairing": "fresh"}
    model = portable(config.model)  # workers have another working directory
    if _is_negated(config):  # of use for what it differs in from the source: no bit of that is rounded away
        model = model.model_copy(update={"export_dtype": "float32"})
    return Job(model=model, optim=config.optim, seed=config.seed, directory=run.directory, **{**defaults, **fields})


def _train(config: TrainingRun, run: Run, job: Job, title: str, console: Console) -> Path:
    folder = run.directory / MODEL
    if run.done:
        console.print(f"{title}: done already, in {storage.name(run.directory)}")
        return folder
    _warn([*fit.notes(config.model), *text_warnings(config.model, (*job.forget, *job.retain))], console)
    with run.locked():
        with progress(console, title) as show:
            launch(job, config.cluster, folder, lambda step: show(step["step"], step["steps"], training_details(step)))
        finish(run)
        _warn(exported(run.directory).get("warnings", ()), console)
    return folder


def exported(directory: Path) -> dict[str, Any]:
    """What was found when a run's model was written; nothing where none was."""
    file = directory / EXPORT_FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def finish(run: Run) -> None:
    """Mark a run whole whose model is written."""
    storage.fetch_loose(run.directory)  # the steps, where a worker on another node has logged them
    write_card(run, MODEL)
    run.finish(model=MODEL, steps=len(read_steps(run.directory)))  # early drop may end it before its schedule does
    storage.remove(run.directory / CHECKPOINTS)  # three times the model's size, and of no more use
