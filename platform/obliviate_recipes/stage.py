"""A stage: one result that is made once and then reused, and the stages that it needs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from obliviate import storage
from obliviate.digests import damage_of_folder
from obliviate.errors import UserError
from obliviate.models import content_of, made_by, portable, require_weights, weights_folder
from obliviate.runs import DONE_FILE, RUN_FILE, Run, content_hash, record_of
from obliviate.schema import ModelSpec
from obliviate.source import locate
from obliviate_recipes.events import Events

if TYPE_CHECKING:
    from obliviate_recipes.costs.work import Work

MODEL = "model"  # the folder of the trained model in its run


@dataclass(frozen=True)
class Determined:
    """What a stage's result depends on, and nothing else."""

    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)  # name -> content hash
    models: Mapping[str, ModelSpec] = field(default_factory=dict)  # name -> a model that exists, or will be made
    whole: Mapping[str, Any] | None = None  # recorded, if `config` is only the part that determines the result


class Stage(ABC):
    """A stage and its run folder are known before anything is made."""

    kind: ClassVar[str]  # prefix of the run folder's name
    asks_only: ClassVar[bool] = False  # whether a hosted model would do: no weights are read
    scratch: ClassVar[tuple[str, ...]] = ()  # folders of its run that are of no use once that is finished
    beside_engines: ClassVar[bool] = False  # whether engines may stay open: it takes nothing of the cluster

    @property
    @abstractmethod
    def label(self) -> str:
        """The next part of the run folder's name, after `kind`."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What the stage does, for the user who waits."""

    @property
    def runs(self) -> str:
        """The folder of all runs, from its config."""
        runs: str = self.config.runs  # type: ignore[attr-defined]
        return runs

    @property
    def waits(self) -> bool:
        """Whether it waits for another process that makes the same stage, instead of failing."""
        return False

    @property
    def needs(self) -> "tuple[Stage, ...]":
        """The stages that must be made before it."""
        return ()

    @abstractmethod
    def determined(self) -> Determined: ...

    @abstractmethod
    def make(self, run: Run, events: Events) -> dict[str, Any]:
        """Make the result in the run's folder; return what to record. Called again after an interrupted call."""

    def check(self) -> None:  # noqa: B027 - most stages have none
        """Raise UserError if the stage cannot be made; called before any stage is made."""

    def prepare(self, events: Events) -> "Iterable[Stage]":
        """Make some of the needed stages in another way than one after the other; return these."""
        return ()

    def release(self) -> None:  # noqa: B027 - most stages have none
        """Let go of what making it left open for stages like it. Called before one that is not `beside_engines`, and at
        the end."""

    def told(self, run: Run, events: Events) -> None:  # noqa: B027 - most stages have none
        """Report on a finished run, whenever it was made. Raises UserError if the run is of no use."""

    def outline(self) -> list[str]:
        """What the stage would do, for `--dry-run`. Raises UserError as `check` does."""
        self.check()
        return [self.title]

    def work(self) -> "tuple[Work, ...]":
        """What the stage costs; empty if it takes seconds."""
        return ()

    @cached_property
    def run(self) -> Run:
        found = self._determined
        inputs = {**{name: self.content_of(model) for name, model in found.models.items()}, **found.inputs}
        return Run.at(Path(self.runs), self.kind, self.label, found.config, inputs, whole_config=found.whole)

    @cached_property
    def _determined(self) -> Determined:
        """Raises UserError for a hosted model whose weights it would take."""
        found = self.determined()
        if not self.asks_only:
            for model in found.models.values():
                require_weights(model)
        return found

    @property
    def done(self) -> bool:
        """Whether it is made, and none of its inputs has been made again since."""
        if not (self.run.done and (self.run.directory / RUN_FILE).exists()):
            return False
        then, now = record_of(self.run.directory).get("made_of", {}), self.made_of()
        return all(then.get(name, made) == made for name, made in now.items())

    def made_of(self) -> dict[str, str]:
        """The finished runs among its inputs: folder name -> a hash that changes when the run is made again, unlike its
        address. Their records came here with the runs and the models' content."""
        folders = {need.run.directory for need in self.needs}
        for model in self._determined.models.values():
            if self._maker(model) is None:
                folders.add(Path(locate(model.source)).parent)
        return {
            folder.name: content_hash((folder / RUN_FILE).read_text(encoding="utf-8", errors="replace"))
            for folder in folders
            if (folder / RUN_FILE).exists() and (folder / DONE_FILE).exists()
        }

    def require_whole_models(self) -> None:
        """Raises UserError for a damaged model that none of our stages makes."""
        for model in self._determined.models.values():
            if self._maker(model) is None and model.endpoint is None:
                folder = Path(locate(model.source))
                for name, what in damage_of_folder(folder).items():
                    raise UserError(f"model.source: {folder / name}: {what}; restore it, or make the model again")

    def content_of(self, model: ModelSpec) -> str:
        """Of a model that is there, or is going to be made."""
        maker = self._maker(model)
        return content_of(model, None if maker is None else maker.weights)

    def at_hand(self, model: ModelSpec) -> ModelSpec:
        """A model of the same shape and tokenizer whose files are there already."""
        maker = self._maker(model)
        return model if maker is None or maker.done else placed(maker.shape, model)

    def portable(self, model: ModelSpec) -> ModelSpec:
        """As `obliviate.models.portable`, of a model that is there or is going to be made."""
        maker = self._maker(model)
        if maker is None:
            return portable(model)
        return placed(model, portable(placed(maker.shape, model)))

    def _maker(self, model: ModelSpec) -> "ModelStage | None":
        makers = (need for need in self.needs if isinstance(need, ModelStage))
        return next((each for each in makers if each.model.source == model.source), None)


class ModelStage(Stage):
    """One that makes a model."""

    @property
    @abstractmethod
    def base(self) -> ModelSpec:
        """The model that it is made of, which may itself have to be made."""

    @cached_property
    def folder(self) -> Path:
        return self.run.directory / MODEL

    @cached_property
    def model(self) -> ModelSpec:
        """Laid out as its base is; where an adapter is kept, beside that."""
        lora = self.base.lora
        kept = None if lora is None or lora.merge else self.portable(self.base).source  # an adapter's own base
        update = {"source": storage.name(self.folder), "base": kept, "lora": None, "revision": None}
        return self.base.model_copy(update=update)

    def told_of(self, events: Events) -> ModelSpec:
        """The model, for a recipe that ends with it."""
        events.said(f"model: {self.model.source}")
        return self.model

    @property
    def weights(self) -> str:
        return made_by(self.run.content, MODEL)

    @property
    def shape(self) -> ModelSpec:
        """A model like it, and there: at last the one that everything is made of."""
        return self.at_hand(self.base)


def placed(place: ModelSpec, model: ModelSpec) -> ModelSpec:
    """The model, laid out as it is, where `place` says that its weights lie."""
    return model.model_copy(update={key: getattr(place, key) for key in ("source", "base", "revision")})


def original_weights(model: ModelSpec, runs: str) -> Path:
    """The folder that arithmetic with the model's weights reads: the model's own, or a copy among the runs."""
    return weights_folder(model, storage.local(runs).absolute() / f"base-{content_of(model)[:10]}")


def all_of(stages: Iterable[Stage]) -> Iterator[Stage]:
    """These and what they need, each once, what is needed first."""
    seen: set[Path] = set()

    def visit(stage: Stage) -> Iterator[Stage]:
        if stage.run.directory not in seen:
            seen.add(stage.run.directory)
            for need in stage.needs:
                yield from visit(need)
            yield stage

    for stage in stages:
        yield from visit(stage)


def perform(stages: Iterable[Stage], events: Events) -> None:
    """Make what is not done yet, in this order; of what is needed, only what something undone asks for.

    Raises UserError, for what can be known of it before anything is made.
    """
    wanted = tuple(stages)
    # What a stage is made of is known of all of them before the first asks a server whether it is there.
    for stage in [stage for stage in all_of(stage for stage in wanted if not stage.done) if not stage.done]:
        stage.check()
    made = _Made()
    try:
        for stage in wanted:
            made.make(stage, events)
    finally:
        made.release()


@contextmanager
def unmade(stage: Stage) -> Iterator[Run | None]:
    """The stage's run, begun, and held against others that would make it too; None where one of them has."""
    if stage.run.marked and not stage.done:
        storage.remove(stage.run.directory)  # of what is there no more, or damaged
    with stage.run.begin(stage.made_of()).locked(wait=stage.waits):
        if stage.run.done:
            yield None
        else:
            stage.run.sweep()
            yield stage.run


def finish(stage: Stage, **summary: Any) -> None:
    """Mark its run whole."""
    stage.run.finish(stage.scratch, **summary)
    _clean(stage)


def _clean(stage: Stage) -> None:
    """Also where a process died between the mark and this."""
    for folder in stage.scratch:
        storage.remove(stage.run.directory / folder)


def _tell_damage(run: Run, events: Events) -> None:
    """In one line."""
    for name, what in list(run.damage().items())[:1]:
        more = f", and {len(run.damage()) - 1} more" if len(run.damage()) > 1 else ""
        then = "nothing is made of a log, and what it lost is lost" if run.done else "the run is made again"
        events.warned(f"{storage.name(run.directory)}: {name} {what}{more}: {then}")


class _Made:
    """What has been made and told of so far."""

    def __init__(self) -> None:
        self._told: set[Path] = set()
        self._open: list[Stage] = []

    def make(self, stage: Stage, events: Events) -> None:
        run, told = stage.run, self._told
        if stage.done:
            if run.directory not in told:
                _tell_damage(run, events)
                events.said(f"{stage.title}: done already, in {storage.name(run.directory)}")
                if run.holds(stage.scratch):
                    _clean(stage)
        else:
            self._make_room(stage)
            _tell_damage(run, events)
            for need in stage.needs:
                if storage.url_of(need.run.directory) is None:  # of a store, each node looks at what it fetches
                    need.run.damage(read=True)
            told.update(each.run.directory for each in stage.prepare(events))
            for need in stage.needs:
                self.make(need, events)
            stage.require_whole_models()
            with unmade(stage) as held:
                if held is not None:
                    self._make_room(stage)
                    self._open.append(stage)
                    events.began(run.directory)
                    finish(stage, **stage.make(held, events))
        if run.directory not in told:
            told.add(run.directory)
            events.ended(run.directory)
            stage.told(run, events)

    def _make_room(self, stage: Stage) -> None:
        if not stage.beside_engines:
            self.release()

    def release(self) -> None:
        while self._open:
            self._open.pop().release()
