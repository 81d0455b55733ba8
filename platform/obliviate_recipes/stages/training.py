"""Training as stages: fine-tuning, unlearning, and what some methods need before or after it."""

import json
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar

from obliviate import fit, plugins, storage
from obliviate.arithmetic import negate
from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.data.refusals import load_refusals
from obliviate.data.rows import Corpus, Row, content_of_rows, require_training_texts
from obliviate.data.world import load_world
from obliviate.errors import UserError
from obliviate.methods import GD, Pass, compares, union_of_needs
from obliviate.models import (
    date_warnings,
    load_tokenizer,
    materialise,
    portable,
    require_same_vocabulary,
    skeleton,
    text_encoder,
)
from obliviate.rows_needed import check_rows
from obliviate.runs import EXPORT_FILE, Run, content_hash, write_whole
from obliviate.schema import ModelSpec
from obliviate.source import adapter_of, export_dtype
from obliviate.train.batch import micro_batch_count
from obliviate.train.job import CHECKPOINTS, Job, Reporter
from obliviate.train.log import HELD_OUT, STEPS_FILE, mishaps, read_steps
from obliviate_recipes.costs.training import TrainingWork
from obliviate_recipes.costs.work import Trained, Work, finetuning, unlearning
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage, Stage, original_weights
from obliviate_recipes.stages import nearness
from obliviate_recipes.stages.alternatives import Alternatives, missing_alternatives
from obliviate_recipes.stages.card import write_card
from obliviate_recipes.stages.chosen import Chosen
from obliviate_recipes.stages.dropping import write_dropped
from obliviate_recipes.stages.filtering import Filter
from obliviate_recipes.stages.judged import JUDGED
from obliviate_recipes.stages.layers import layer, layered
from obliviate_recipes.stages.sanitisation import Sanitised
from obliviate_recipes.stages.selecting import HeldOut

# Left out of a run's content hash: what changes where and how fast it computes, but not what; and what says where texts
# come from, which enter by their content. So a changed evaluation set, or its limit, trains nothing again. With dropout
# the number of micro-batches comes back in.
LEFT_OUT: dict[str, Any] = {
    "kl_budget": {"texts"},
    "validation": {"texts"},
    **dict.fromkeys(("cluster", "runs", "name", "data", "alternatives", "reinforcement", "forget_filter"), True),
    "optim": {"micro_batch_size", "activation_checkpointing", "checkpoint_every_steps", "keep_checkpoints"},
}
Launch = Callable[[Job, Path, Reporter], None]  # a job and the folder for its model


@dataclass(frozen=True)
class Opened(ModelStage):
    """A GGUF, or an adapter merged into its base, as engines and trainings of all stages open it."""

    kind: ClassVar = "base"
    waits: ClassVar = True

    spec: ModelSpec
    root: str

    @property
    def base(self) -> ModelSpec:
        return self.spec

    @property
    def runs(self) -> str:
        return self.root

    @property
    def label(self) -> str:
        return Path(self.base.source).stem

    @property
    def title(self) -> str:
        return f"open {self.base.source}"

    def determined(self) -> Determined:
        return Determined({}, models={"model": self.base}, whole={"model": self.base.model_dump(mode="json")})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        materialise(self.base, self.folder)
        return {"model": MODEL}


def opened(model: ModelSpec, runs: str) -> Opened | None:
    """None where a model is open as it is. With `lora` an adapter is trained as what it is, and stays it."""
    adapts = adapter_of(model) is not None
    if (adapts and model.lora is None) or model.source.endswith(".gguf"):
        return Opened(model, runs)
    return None


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

    @property
    @abstractmethod
    def steps(self) -> TrainingWork:
        """What its steps run over."""

    def work(self) -> tuple[Work, ...]:
        share = min(1.0, self.config.cluster.gpus_per_worker or 1.0)  # more than a GPU is of no use to a worker
        return (Trained(self.title, self.steps, self.config.cluster.workers, share),)

    def _planned(self, title: str) -> str:
        steps, workers = self.steps, self.config.cluster.workers
        named = f"{self.config.name}: " if self.config.name else ""
        return (
            f"{named}{title}: {steps.steps} steps of {steps.items} items, about {steps.step_tokens:.0f} tokens a step, "
            f"{steps.step_tokens * steps.steps:.0f} in all; {steps.memory_bytes(workers) / 2**30:.1f} GiB for weights, "
            f"gradients, optimiser and activations on each of {workers} worker(s)"
        )


@dataclass(frozen=True)
class Finetune(Training):
    """Teaches a model the data."""

    kind: ClassVar = "finetune"
    config: FinetuneRun

    @property
    def label(self) -> str:
        return self.config.name or f"{self.config.data.type}-{self.config.train_on}"

    @property
    def title(self) -> str:
        return f"fine-tune on {self.config.train_on}"

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return rows_to_learn(self.config, self.corpus)

    def determined(self) -> Determined:
        return self._trained_on({}, {})

    def check(self) -> None:
        self._check_model(self.rows)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        job = _job(self.config, run, terms=(GD(),), retain=self.rows, anchor=Pass.RETAIN)
        return self._launch(run, job, events)

    @property
    def steps(self) -> TrainingWork:
        return finetuning(self.config.optim, self.config.seed, self.rows, self.at_hand(self.config.model))

    def outline(self) -> list[str]:
        self.check()
        title = f"fine-tune on {len(self.rows)} rows ({self.config.train_on})"
        return [*map(_warning, self._warnings(self.rows)), self._planned(title)]


@dataclass(frozen=True)
class Unlearn(Training):
    """Trains by the method's terms."""

    kind: ClassVar = "unlearn"
    config: UnlearnRun
    filter: Filter | None = None
    alternatives: Alternatives | None = None
    reinforced: Finetune | None = None

    @property
    def label(self) -> str:
        return _label(self.config)

    @property
    def title(self) -> str:
        return f"unlearn with {self.config.label}"

    @property
    def needs(self) -> tuple[Stage, ...]:
        prepared = (self.reinforced, self.filter, self.alternatives)
        return (*self.before, *(each for each in prepared if each is not None))

    @cached_property
    def held_out(self) -> HeldOut:
        return HeldOut.of(self.config, self.corpus)

    @cached_property
    def world(self) -> tuple[Row, ...]:
        return () if self.config.world is None else load_world(self.config.world)

    def determined(self) -> Determined:
        config = self.config
        found = {
            "held_out": self.held_out.content,
            "refusals": None if config.refusals is None else content_hash(load_refusals(config.refusals)),
            "world": content_of_rows(self.world) if self.world else None,
            "code": plugins.content(config.terms),
            "reinforced": None if self.reinforced is None else self.reinforced.weights,
            "filter": None if self.filter is None else self.filter.run.content,
            "alternatives": None if self.alternatives is None else self.alternatives.run.content,
        }
        models = {} if config.reference is None else {"reference": config.reference}
        return self._trained_on({name: content for name, content in found.items() if content is not None}, models)

    def check(self) -> None:
        config = self.config
        check_data(config, self.corpus)
        self._check_model((*self.corpus.forget, *self.corpus.retain, *self.held_out.rows))
        from obliviate.train.model import check_layers  # transformers: a config is read without it

        check_layers(config.terms, skeleton(self.at_hand(config.model)), config.latent)
        load_refusals(config.refusals)
        if config.reference is not None:
            reference = self.at_hand(config.reference)
            require_same_vocabulary(self.at_hand(config.model), reference)
            fit.check(reference)
        nearness.check(config, self.corpus)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        return self._launch(run, self.job(run, events), events)

    def job(self, run: Run, events: Events) -> Job:
        """What there is to train, once all that it needs is made."""
        config, corpus = self.config, self.corpus
        if self.filter is not None:
            corpus = self.filter.applied(corpus, events)
            check_data(config, corpus)  # of what the filter leaves
            judged = self.filter.run.directory / JUDGED
            write_whole(run.directory / JUDGED, partial(shutil.copyfile, judged))
        if self.alternatives is not None:
            corpus = self.alternatives.applied(corpus, events)
        corpus = replace(corpus, retain=self.held_out.retain)
        reinforced = None if self.reinforced is None else portable(self.reinforced.model)
        return _job(
            config,
            run,
            terms=config.terms,
            forget=corpus.forget,
            retain=corpus.retain,
            refusals=load_refusals(config.refusals),
            pairing=config.pairing,
            world=self.world,
            neighbours=nearness.nearest_retain(config, corpus),
            drop=nearness.drop_rule(config),
            stop=config.stop,
            updates=config.updates,
            forget_learning_rate=config.forget_learning_rate,
            sharpness=config.sharpness,
            latent=config.latent,
            projection=config.projection,
            rectification=config.rectification,
            budget=self.held_out.budget,
            validation=self.held_out.validation,
            stability=config.stability,
            quantisation=config.quantisation,
            reference=None if config.reference is None else portable(config.reference),
            reinforced=reinforced,
        )

    def logged(self, run: Run, log: Sequence[Mapping[str, Any]], events: Events) -> None:
        if self.config.early_drop is not None:
            rows = self.corpus.forget
            if self.filter is not None:
                rows = tuple(compress(rows, self.filter.kept))
            events.said(write_dropped(run.directory, log, rows))

    @property
    def steps(self) -> TrainingWork:
        return self.held_out.added(unlearning(self.config, self.corpus, self.at_hand(self.config.model)))

    def outline(self) -> list[str]:
        self.check()
        forget, retain = self.corpus.forget, self.corpus.retain
        title = f"unlearn {len(forget)} rows with {self.config.label}, retain set of {len(retain)}"
        lines = [*map(_warning, self._warnings((*forget, *retain))), self._planned(title)]
        if self.config.early_drop is not None:
            lines.append("  at most: after each epoch, rows that the model no longer answers are left out")
        if self.config.stop is not None:
            lines.append("  at most: after each epoch, training ends if the true answers' margins are gone")
        lines += self.held_out.outline()
        if compares(union_of_needs(self.config.terms)):
            lines.append(
                "  first what terms compare with, from the starting model: one forward pass of these texts, no second "
                "model"
            )
        return lines


class Learn(Unlearn):
    """Trains a task vector on what is to be forgotten, which is then subtracted."""

    kind: ClassVar = "learn"


class Adapter(Unlearn):
    """Trains an adapter that is fused with others: with the Gram matrices that fusing reads."""

    kind: ClassVar = "adapter"


@dataclass(frozen=True)
class Negation(ModelStage):
    """Subtracts what was learned, in one training or several, from the original."""

    kind: ClassVar = "unlearn"
    waits: ClassVar = True  # another sweep may be at the same scale

    config: UnlearnRun
    learned: tuple[Learn, ...]

    @property
    def scale(self) -> float:
        assert self.config.method.negation is not None
        return self.config.method.negation.scale

    @property
    def base(self) -> ModelSpec:
        return self.config.model

    @property
    def label(self) -> str:
        return _label(self.config)

    @property
    def title(self) -> str:
        return f"subtract {self.scale:g} times the change of the weights from the original"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return (*self.learned[0].before, *self.learned)

    def check(self) -> None:
        if self._maker(self.config.model) is None:
            original_weights(self.config.model, self.config.runs)  # what cannot be subtracted from, before training

    def determined(self) -> Determined:
        first, whole = self.learned[0].determined(), self.config.model_dump(mode="json")
        learned = {f"learned_{place}": each.run.content for place, each in enumerate(self.learned)}
        config = self.config.model_dump(mode="json", exclude=LEFT_OUT)
        return Determined(config, {**first.inputs, **learned}, first.models, whole)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        learned = [storage.fetch(each.folder) for each in self.learned]
        original = original_weights(self.config.model, self.config.runs)
        negate(original, learned, self.scale, self.folder, export_dtype(self.config.model))
        first = self.learned[0].run
        for name in (STEPS_FILE, JUDGED):  # what training logged, and what it left out
            if (file := first.directory / name).exists():
                write_whole(run.directory / name, partial(shutil.copyfile, file))
        write_card(run, MODEL)
        return {"model": MODEL, "learned": first.directory.name, "steps": first.summary["steps"]}


def unlearning_stage(
    config: UnlearnRun, corpus: Corpus, before: tuple[Stage, ...] = (), train: Launch | None = None
) -> ModelStage:
    """What makes the model that has forgotten. `before`: stages that make models which the config names."""
    if config.undo is not None:
        from obliviate_recipes.stages.undo import Distilled  # a Training itself

        teacher = unlearning_stage(config.model_copy(update={"undo": None}), corpus, before, train)
        return Distilled(config, corpus, train=train, unlearned=teacher)
    if config.sanitisation is not None:
        bare = config.model_copy(update={"sanitisation": None})
        return Sanitised(config, corpus, unlearning_stage(bare, corpus, before, train))
    if config.layers is not None:
        return _layered(config, corpus, before, train)
    prepared = _prepared(config, corpus, before, train)
    if not _is_negated(config):
        return Unlearn(**prepared)
    return Negation(config, tuple(Learn(**{**prepared, "config": each}) for each in config.learnings))


def _layered(config: UnlearnRun, corpus: Corpus, before: tuple[Stage, ...], train: Launch | None) -> ModelStage:
    """The last of the trainings, which needs the others."""
    assert config.layers is not None
    source, stage = "", None
    for number, part in enumerate(layered(corpus, config.layers.folds, config.seed), 1):
        stage = unlearning_stage(layer(config, number, source), part, before, train)
        source, before = stage.model.source, (*before, stage)
    assert stage is not None
    return stage


def trainings(stage: ModelStage) -> tuple[ModelStage, ...]:
    """Those that an unlearning stage is made of."""
    if isinstance(stage, Training) and stage.unlearned is not None:
        return trainings(stage.unlearned)
    if isinstance(stage, Sanitised):
        return trainings(stage.unlearned)
    return stage.learned if isinstance(stage, Negation) else (stage,)


def adapter_stage(config: UnlearnRun, corpus: Corpus) -> Adapter:
    return Adapter(**_prepared(config, corpus, (), None))


def _prepared(config: UnlearnRun, corpus: Corpus, before: tuple[Stage, ...], train: Launch | None) -> dict[str, Any]:
    """The fields of a training, with the stages that prepare it."""
    reinforcing = config.reinforcing
    filtering = None if config.forget_filter is None else Filter(config, corpus, before)
    sampling = Alternatives(config, corpus, before, filtering) if missing_alternatives(config, corpus) else None
    reinforced = None if reinforcing is None else Finetune(reinforcing, corpus, before)
    return {
        "config": config, "corpus": corpus, "before": before, "train": train, "filter": filtering,
        "alternatives": sampling, "reinforced": reinforced,
    }  # fmt: skip


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


def details(step: Mapping[str, Any]) -> str:
    """Loss with its parts, what was measured after it, and the speed, of one logged step."""
    parts = " ".join(f"{name} {value:.3f}" for name, value in step["parts"].items())
    held_out = step.get("held_out", {})
    found = "".join(f" {name} {held_out[name]:.4f}" for name in HELD_OUT if held_out.get(name) is not None)
    pace = f"lr {step['learning_rate']:.1e} {step['tokens_per_s']:.0f} tokens/s"
    return f"loss {step['loss']:.3f} ({parts}){found} {pace}"


def _warning(text: str) -> str:
    return f"warning: {text}"


def _job(config: TrainingRun, run: Run, **fields: Any) -> Job:
    defaults: Mapping[str, Any] = {"forget": (), "retain": (), "refusals": (), "pairing": "fresh"}
    model = portable(config.model)  # workers have another working directory
    if _is_negated(config):  # of use for what it differs in from the source: no bit of that is rounded away
        model = model.model_copy(update={"export_dtype": "float32"})
    return Job(model=model, optim=config.optim, seed=config.seed, directory=run.directory, **{**defaults, **fields})


def exported(directory: Path) -> dict[str, Any]:
    """What was found when a run's model was written; nothing where none was."""
    file = directory / EXPORT_FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found
