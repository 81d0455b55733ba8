"""What trainings share as stages: what determines them, how they are launched, and what is told of them."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from obliviate import fit, storage
from obliviate.config import TrainingRun, UnlearnRun
from obliviate.data.key_facts import asked_for
from obliviate.data.rows import Corpus, Row, require_training_texts
from obliviate.data.schedule import micro_batch_count
from obliviate.models import date_warnings, encoder_of, portable
from obliviate.runs import EXPORT_FILE, Run
from obliviate.schema import ModelSpec
from obliviate.train.job import CHECKPOINTS, Job, Reporter
from obliviate.train.log import HELD_OUT, mishaps, read_steps
from obliviate.train.signal import spread
from obliviate_recipes.costs.training import TrainingWork
from obliviate_recipes.costs.work import Trained, Work
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage, Stage
from obliviate_recipes.stages.card import write_card
from obliviate_recipes.stages.chosen import Chosen

# Left out of a run's content hash: what changes where and how fast it computes, but not what; and what says where texts
# come from, which enter by their content. So a changed evaluation set, or its limit, trains nothing again. With dropout
# the number of micro-batches comes back in.
LEFT_OUT: dict[str, Any] = {
    "kl_budget": {"texts"},
    "validation": {"texts"},
    **dict.fromkeys(("cluster", "runs", "name", "data", "alternatives", "reinforcement", "forget_filter"), True),
    "tracking": True,
    "push_to_hub": True,
    "optim": {"micro_batch_size", "activation_checkpointing", "checkpoint_every_steps", "keep_checkpoints"},
}
ASKED = 32  # forget rows, of the model that has just been trained
LOOKED_AT = 2000  # training texts, for a warning of those that are cut
Launch = Callable[[Job, Path, Reporter], None]  # a job and the folder for its model


@dataclass(frozen=True)
class Training(ModelStage):
    """What fine-tuning and unlearning share. `before`: stages that make models which the config names."""

    scratch: ClassVar = (CHECKPOINTS,)  # three times the model's size

    config: TrainingRun
    corpus: Corpus
    before: tuple[Stage, ...] = ()
    train: Launch | None = None  # in place of workers of its own
    unlearned: ModelStage | None = None  # what has forgotten already, and is taught to a copy of itself

    @property
    def base(self) -> ModelSpec:
        return self.config.model

    @property
    def waits(self) -> bool:
        return self.train is not None  # of trials, several may be at the same point

    @property
    def needs(self) -> tuple[Stage, ...]:
        return self.before

    def _trained_on(self, inputs: Mapping[str, str], models: Mapping[str, ModelSpec]) -> Determined:
        """`inputs`: hashes of what the config names by path, or what is made before. `models`: beside its own."""
        inputs = {"data": self.corpus.training_content, **inputs}
        models = {"model": self.config.model, **models}
        return Determined(resolved(self.config), inputs, models, self.config.model_dump(mode="json"))

    def _check_model(self, rows: Sequence[Row]) -> None:
        """Raises UserError for a model that cannot be trained on these texts, or not be written afterwards."""
        require_training_texts(self.corpus)
        model = self.at_hand(self.config.model)
        fit.check(model, trained=True)
        fit.check_rows(model, rows)
        fit.notes(model)

    def _warnings(self, rows: Sequence[Row]) -> list[str]:
        model = self.at_hand(self.config.model)
        return [*fit.notes(model), *text_warnings(model, rows)]

    def _job(self, run: Run, **fields: Any) -> Job:
        config = self.config
        defaults: Mapping[str, Any] = {"forget": (), "retain": (), "refusals": (), "pairing": "fresh"}
        model = portable(config.model)  # workers have another working directory
        if _is_negated(config):  # of use for what it differs in from the source: no bit of that is rounded away
            model = model.model_copy(update={"export_dtype": "float32"})
        return Job(model=model, optim=config.optim, seed=config.seed, directory=run.directory, **{**defaults, **fields})

    def _launch(self, run: Run, job: Job, events: Events) -> dict[str, Any]:
        for warning in self._warnings((*job.forget, *job.retain)):
            events.warned(warning)
        with events.progressing(self.title) as show:
            on_step = lambda step: show(step["step"], step["steps"], details(step))  # noqa: E731
            if self.train is None:
                from obliviate.train.launch import launch

                launch(job, self.config.cluster, self.folder, on_step)
            else:
                self.train(job, self.folder, on_step)
        return self.written(run, events)

    def written(self, run: Run, events: Events) -> dict[str, Any]:
        """Of a run whose model is trained and written: its card, what there is to warn of, its summary."""
        storage.fetch_loose(run.directory)  # the steps, where a worker on another node has logged them
        log = read_steps(run.directory)
        self.logged(run, log, events)
        write_card(run, MODEL)
        for warning in (*mishaps(run.directory), *exported(run.directory).get("warnings", ())):
            events.warned(warning)
        chosen = Chosen.of(log)
        if chosen is not None:
            (events.said if chosen.step else events.warned)(chosen.text)
        # Early drop, `stop`, a budget or patience may end it before its schedule does.
        return {"model": MODEL, "steps": len(log), **({} if chosen is None else {"chosen": chosen.step})}

    def logged(self, run: Run, log: Sequence[Mapping[str, Any]], events: Events) -> None:
        """Write and tell what else the log says, before the card is written."""

    def told(self, run: Run, events: Events) -> None:
        storage.fetch(run.directory / EXPORT_FILE)
        if (facts := exported(run.directory).get("facts")) is not None:
            events.said(f"{self.title}: key facts still said: {facts['said']} of {facts['of']} (training rows asked)")

    @property
    @abstractmethod
    def steps(self) -> TrainingWork:
        """What its steps run over."""

    def work(self) -> tuple[Work, ...]:
        share = min(1.0, self.config.cluster.gpus_per_worker or 1.0)  # more than a GPU is of no use to a worker
        return (Trained(self.title, self.steps, self.config.cluster.workers, share),)

    def _outlined(self, title: str, rows: Sequence[Row]) -> list[str]:
        return [*(f"warning: {text}" for text in self._warnings(rows)), self._planned(title)]

    def _planned(self, title: str) -> str:
        steps, workers = self.steps, self.config.cluster.workers
        named = f"{self.config.name}: " if self.config.name else ""
        return (
            f"{named}{title}: {steps.steps} steps of {steps.items} items, about {steps.step_tokens:.0f} tokens a step, "
            f"{steps.step_tokens * steps.steps:.0f} in all; {steps.memory_bytes(workers) / 2**30:.1f} GiB for weights, "
            f"gradients, optimiser and activations on each of {workers} worker(s)"
        )


def resolved(config: TrainingRun) -> dict[str, Any]:
    """What determines what training makes, beside the texts and the model's weights."""
    later: dict[str, Any] = (
        {"method": {"scale", "learning_rates"}, "model": {"export_dtype"}} if _is_negated(config) else {}
    )
    return config.model_dump(mode="json", exclude={**LEFT_OUT, **later}) | _of_dropout(config)


def _of_dropout(config: TrainingRun) -> dict[str, Any]:
    """Each micro-batch of a step draws its own dropout: what it is depends on how many there are."""
    size, workers = config.optim.micro_batch_size, config.cluster.workers
    if not config.model.drops:
        return {}
    # Of both the steps are not of one length: with early drop they lose items, and an attack has batches of its own.
    if isinstance(config, UnlearnRun) and (config.early_drop is not None or config.tampering is not None):
        return {"micro_batches": {"size": size, "workers": workers}}
    return {"micro_batches": micro_batch_count(config.optim.batch_size, size, workers)}


def _is_negated(config: TrainingRun) -> bool:
    """Whether training learns what is subtracted afterwards."""
    return isinstance(config, UnlearnRun) and config.method.negation is not None


def text_warnings(model: ModelSpec, rows: Sequence[Row]) -> list[str]:
    """Of training texts that the model never sees whole, and of a template that was given a made-up date. Of more texts
    than LOOKED_AT as many are looked at, evenly spread."""
    encoder = encoder_of(model)
    looked_at = [rows[index] for index in spread(len(rows), LOOKED_AT)]
    cut = sum(encoder.cuts(*row.saying(row.answer)) for row in looked_at)
    share = f"{cut} of {len(rows)}" if len(rows) <= LOOKED_AT else f"about {cut / LOOKED_AT:.1%} of {len(rows)}"
    fix = "raise model.max_length, or split them (data.chunk_words)"
    longer = f"{share} training texts are cut at {model.max_length} tokens: {fix}"
    return [*([longer] if cut else []), *date_warnings(model, encoder)]


def details(step: Mapping[str, Any]) -> str:
    """Loss with its parts, what was measured after it, and the speed, of one logged step."""
    parts = " ".join(f"{name} {value:.3f}" for name, value in step["parts"].items())
    held_out = step.get("held_out", {})
    found = "".join(f" {name} {held_out[name]:.4f}" for name in HELD_OUT if held_out.get(name) is not None)
    pace = f"lr {step['learning_rate']:.1e} {step['tokens_per_s']:.0f} tokens/s"
    return f"loss {step['loss']:.3f} ({parts}){found} {pace}"


def facts_of(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Some of those with a fact that a question asks for, evenly spread."""
    having = [row for row in rows if asked_for(row)]
    return tuple(having[index] for index in spread(len(having), ASKED))


def exported(directory: Path) -> dict[str, Any]:
    """What was found when a run's model was written; nothing where none was."""
    file = directory / EXPORT_FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found
