"""Evaluation as two stages: a model's records, which take an engine and its hours, and figures of them, which take
seconds and are made anew where a suite, a judge or a metric's code is another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter

from obliviate import fit, plugins, storage
from obliviate.data.rows import Corpus
from obliviate.errors import UserError
from obliviate.guardrail import label
from obliviate.models import date_warnings, encoder_of
from obliviate.runs import Run, content_hash, read_part, write_json
from obliviate.schema import HostedSpec, ModelSpec
from obliviate_eval.asked import asked_of_engine, in_forms, suite_of, worded
from obliviate_eval.content import content_of_code, content_of_suite
from obliviate_eval.judges.prompt import read_prompt
from obliviate_eval.records import RECORDS_FILE, Record, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.events import Events, Update
from obliviate_recipes.placement import PLACEMENT, judged_folder
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages import cautions, hosted
from obliviate_recipes.stages.card import COLLAPSED, Measured, add_measurement, onto_card
from obliviate_recipes.stages.forms import room_in, with_room, with_room_to_answer
from obliviate_recipes.stages.judge import Judge

if TYPE_CHECKING:
    from obliviate.data.text import TextEncoder
    from obliviate.inference.engine import WhiteBox
    from obliviate.inference.on_demand import OnDemand
    from obliviate.inference.server import Server
    from obliviate_eval.harness import Tasks
    from obliviate_eval.judges import Judges
    from obliviate_recipes.costs.work import Work

TASKS_FILE = "tasks.json"  # figures of general ability: they come from the engine, as records do
TASKS = TypeAdapter(dict[str, dict[str, Figure]])
FIGURES = {"judge", "resamples", "seed"}  # what changes the figures of the same records, besides suite and judges
ANSWERS = "answers"  # the folder of what the engine said, chunk by chunk, until the records are written


@dataclass
class Measuring:
    """What the evaluations of several models share: items, suite, and what is loaded once.

    Engines stay open from model to model, until a stage needs what they hold. `within`: what this process holds is
    enough, for one that has the device to itself already; a Hugging Face engine is then opened in it. `share`: of a
    GPU, that a replica has. `waits`: for another process that measures the same.
    """

    corpus: Corpus
    spec: EvaluationSpec
    address: str | None
    runs: str
    within: bool = False
    share: float = 1.0
    waits: bool = False
    nli: Judge | None = None  # makes the NLI model, in place of the spec's
    told: set[str] = field(default_factory=set)  # models that were warned of: once each, however often they are asked
    servers: "dict[HostedSpec, Server]" = field(default_factory=dict)  # of hosted models, each with one budget
    kept: "list[OnDemand]" = field(default_factory=list)  # those that stay open: at most one
    _read: dict[Path, list[Record]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.nli is not None:
            self.spec = self.spec.model_copy(update={"nli": self.nli.source})
        if self.in_forms:
            generation = with_room_to_answer(self.spec.generation)
            self.spec = self.spec.model_copy(update={"generation": generation})
        self.corpus = worded(self.corpus, self.spec.questions)

    @property
    def in_forms(self) -> bool:
        """Whether forget sets are asked in every form too, as far as a model has room for them."""
        return self.spec.questions == "formats"

    def figures(
        self,
        name: str,
        model: ModelSpec,
        retain: "Figures | None" = None,
        needs: tuple[Stage, ...] = (),
    ) -> "Figures":
        """Of a model, beside the retain model's for forget quality. `needs`: stages that make what it names."""
        return Figures(Records(self, name, model, needs), retain)

    def answers_in(self, file: Path) -> list[Record]:
        """Read once for all models."""
        if file not in self._read:
            self._read[file] = read_records(storage.fetch(file))
        return self._read[file]

    @cached_property
    def judges(self) -> "Judges":
        from obliviate_eval.judges.load import load_judges

        replies = judged_folder(Path(self.runs))
        for file in replies.glob("*.json"):
            read_part(file)  # one that is cut off goes, and is asked for again
        return load_judges(self.spec, replies)

    @contextmanager
    def engine(self, model: ModelSpec, folder: Path, pace: "Pace") -> "Iterator[WhiteBox]":
        """What engines on Ray actors say is on disk as it comes, in `folder`."""
        from obliviate.inference.journal import Journal
        from obliviate.inference.pool import place

        if model.endpoint is not None:
            yield Journal(hosted.opened(self.servers, model, self.spec.engine, pace.update), folder)
            return
        if self.within and (self.spec.engine.type == "hf" or place(self.spec.engine).spec.type == "hf"):
            from obliviate.inference.hf import HFEngine

            yield HFEngine.open(model, self.spec.engine)
            return
        from obliviate.inference.on_demand import OnDemand

        if not self.kept or self.kept[0].spec != self.spec.engine:
            self.close()
            self.kept.append(OnDemand(model, self.spec.engine, self.address, pace.update, within=self.within))
        (engines,) = self.kept
        try:
            engines.load(model, pace.update)
            yield Journal(engines, folder)
            engines.rest()
        except BaseException:
            engines.close()
            raise

    def close(self) -> None:
        """Of engines that are open."""
        while self.kept:
            self.kept.pop().close()


@dataclass(frozen=True)
class Records(Stage):
    """What a model says to the items, and what it thinks of the answers."""

    kind: ClassVar = "records"
    asks_only: ClassVar = True
    scratch: ClassVar = (ANSWERS,)
    beside_engines: ClassVar = True

    shared: Measuring
    name: str
    given: ModelSpec
    before: tuple[Stage, ...] = ()

    @property
    def label(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        return f"records {self.name}"

    @property
    def waits(self) -> bool:
        return self.shared.waits

    @property
    def runs(self) -> str:
        return self.shared.runs

    @property
    def needs(self) -> tuple[Stage, ...]:
        return self.before

    @cached_property
    def model(self) -> ModelSpec:
        """For engines and later reports, which run in other folders."""
        given, shared = self.given, self.shared
        return self.portable(with_room(given, self.at_hand(given), shared.spec.engine) if shared.in_forms else given)

    @cached_property
    def corpus(self) -> Corpus:
        """What this model is asked."""
        shared, model = self.shared, self.model
        return in_forms(shared.corpus, room_in(model, self.at_hand(model))) if shared.in_forms else shared.corpus

    def determined(self) -> Determined:
        spec, corpus = self.shared.spec, self.corpus
        engine = spec.engine.model_dump(mode="json", exclude=PLACEMENT["engine"])
        if self.model.endpoint is not None:  # it runs on none of ours
            engine = {"max_model_len": spec.engine.max_model_len}
        config = {
            "model": self.model.model_dump(mode="json", exclude={"endpoint": PLACEMENT["endpoint"]}),
            "engine": engine,
            **asked_of_engine(spec, corpus.evaluation),
        }
        inputs = {"data": corpus.evaluation_content}
        if files := _task_files(spec):
            inputs["tasks"] = content_hash(files)
        return Determined(config, inputs, {"model": self.model})

    def check(self) -> None:
        model = self.at_hand(self.model)
        if model.endpoint is not None:
            hosted.require_outside(self.corpus, self.shared.spec)
            hosted.opened(self.shared.servers, model, self.shared.spec.engine)
            return
        fit.check(model)
        fit.check_rows(model, [row for each in self.corpus.evaluation for row in each.rows])

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.run import records

        spec, corpus, model = self.shared.spec, self.corpus, self.model
        if self._maker(model) is not None:  # it was not there when the stage was checked
            fit.check(model)
        encoder = encoder_of(model)
        of_model = [*cautions.of_dtype(self.name, model, spec.engine.dtype), *date_warnings(model, encoder)]
        known = model.source in self.shared.told
        for warning in (*([] if known else of_model), *cautions.of_texts(encoder, corpus, spec, model)):
            events.warned(warning)
        self.shared.told.add(model.source)
        if model.endpoint is not None:
            server = hosted.opened(self.shared.servers, model, spec.engine)
            for warning in hosted.warnings(server, model.endpoint, corpus, spec, told=self.shared.told):
                events.warned(warning)
        with events.progressing(f"evaluate {self.name}") as show:
            pace = Pace(show)
            with self.shared.engine(model, run.directory / ANSWERS, pace) as engine:
                tasks = self._tasks(engine, encoder)
                records(engine, encoder, corpus.evaluation, spec, run.directory, pace.begin)
        if model.endpoint is not None:
            for warning in hosted.refusals(self.shared.servers[model.endpoint]):
                events.warned(f"{self.name}: {warning}")
        write_json(run.directory / TASKS_FILE, TASKS.dump_python(tasks, mode="json"))
        return {"records": RECORDS_FILE, "tasks": TASKS_FILE}

    def release(self) -> None:
        if not self.shared.within:
            self.shared.close()

    def work(self) -> "tuple[Work, ...]":
        from obliviate_recipes.costs.work import Measured, measuring, requesting

        model = self.at_hand(self.model)
        if model.endpoint is not None:
            return (requesting(self.name, model, model.endpoint, self.corpus, self.shared.spec),)
        return (Measured("evaluate", measuring(model, self.corpus, self.shared.spec), self.shared.share),)

    def outline(self) -> list[str]:
        suite, corpus = suite_of(self.shared.spec), self.corpus
        sizes = ", ".join(f"{each.name} {len(each.rows)}" for each in corpus.evaluation)
        probes = ", ".join(sorted(suite.needs))
        asked = [str(work) for work in self.work()] if self.model.endpoint is not None else []
        return [f"evaluate {self.name} with {suite.name}: {sizes} items; probes: {probes}", *asked]

    def _tasks(self, engine: "WhiteBox", encoder: "TextEncoder") -> "Tasks":
        """Of the lm-evaluation-harness."""
        spec = self.shared.spec
        if spec.harness is None:
            return {}
        try:
            from obliviate_eval.harness import run_tasks
        except ModuleNotFoundError as error:
            raise UserError(
                f"evaluation.harness: {error.name} is not installed; pip install 'obliviate[harness]', or leave it out"
            ) from error
        return run_tasks(engine, encoder, hosted.longest(self.model, spec.engine), spec.harness)


@dataclass(frozen=True)
class Figures(Stage):
    """What the records come to."""

    kind: ClassVar = "evaluate"
    beside_engines: ClassVar = True

    records: Records
    retain: "Figures | None" = None

    @property
    def label(self) -> str:
        return self.records.name

    @property
    def title(self) -> str:
        return f"evaluate {self.records.name}"

    @property
    def waits(self) -> bool:
        return self.records.waits

    @property
    def runs(self) -> str:
        return self.records.runs

    @property
    def needs(self) -> tuple[Stage, ...]:
        nli = self.records.shared.nli
        made = (nli, self.retain, self.records)
        return tuple(each for each in made if each is not None)

    def determined(self) -> Determined:
        spec, suite = self.records.shared.spec, suite_of(self.records.shared.spec)
        found: dict[str, str | None] = {
            "records": self.records.run.content,
            "suite": content_of_suite(suite),
            "code": content_of_code(),
            "others": plugins.content((*suite.metrics, *suite.comparisons)),
            "retain": None if self.retain is None else self.retain.run.directory.name,
            "judges": content_hash(judges) if (judges := self._judges()) else None,
        }
        computed = spec.model_dump(mode="json", include=FIGURES, exclude={"judge": PLACEMENT["judge"]})
        whole = spec.model_dump(mode="json", exclude=PLACEMENT)
        return Determined(
            computed,
            {name: content for name, content in found.items() if content is not None},
            whole={"evaluation": whole, "model": self.records.model.model_dump(mode="json")},
        )

    def check(self) -> None:
        """One judge that is missing is told before an hour of generation."""
        nli = self.records.shared.nli
        if nli is None or nli.done:
            _ = self.records.shared.judges

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        from obliviate_eval.run import figures

        shared, name = self.records.shared, self.records.name
        for warning in cautions.of_data(self.records.corpus, shared.spec):
            events.warned(warning)
        judges = shared.judges
        collected = self.records.run.directory
        records = read_records(storage.fetch(collected / RECORDS_FILE))
        with events.progressing(f"figures {name}") as show:
            evaluation = figures(
                records,
                shared.spec,
                judges,
                run.directory,
                Pace(show).begin,
                reference_records=None
                if self.retain is None
                else shared.answers_in(self.retain.run.directory / RECORDS_FILE),
                tasks=TASKS.validate_json(storage.fetch(collected / TASKS_FILE).read_bytes()),
            )
        unanswered = {} if judges.verdict is None else judges.verdict.unanswered
        found = [cautions.of_answers(records), cautions.of_verdicts(unanswered)]
        for warning in filter(None, (COLLAPSED if evaluation.collapsed else "", *found)):
            events.warned(f"{name}: {warning}")
        self._update_card(evaluation, events)
        return {"records": RECORDS_FILE, "metrics": METRICS_FILE}

    def outline(self) -> list[str]:
        return [f"warning: {warning}" for warning in cautions.of_data(self.records.corpus, self.records.shared.spec)]

    def _judges(self) -> dict[str, str]:
        """Each judge's content; of a language model's, the prompt's text."""
        spec = self.records.shared.spec
        named = {name: getattr(spec, name) for name in ("encoder", "nli", "fluency")}
        found = {name: self._content(name, source) for name, source in named.items() if source is not None}
        return found if spec.judge is None else {**found, "prompt": read_prompt(spec.judge.prompt)}

    def _content(self, name: str, source: str) -> str:
        try:
            return self.content_of(ModelSpec(source=source))
        except UserError as error:
            raise UserError(f"evaluation.{name}: {str(error).removeprefix('model.source: ')}") from error

    def _update_card(self, evaluation: Evaluation, events: Events) -> None:
        """A model that one of our runs trained gets the figures into its card, where that may be written."""
        model = self.records.model
        behind = None if model.guardrail is None else label(model.guardrail)
        measured = Measured(evaluation=evaluation, behind=behind, dtype=self.records.shared.spec.engine.dtype)
        onto_card(model, lambda run, folder: add_measurement(run, folder, measured), events)


class Pace:
    """What is being done now, and how fast."""

    def __init__(self, show: Update) -> None:
        self._show, self._name, self._began_s = show, "", monotonic()

    def begin(self, name: str, done: int, total: int) -> None:
        if done == 0:
            self._name, self._began_s = name, monotonic()
        self._show(done, total, name)

    def update(self, done: int, total: int, tokens: int) -> None:
        """Told of each chunk; the pace includes what an engine takes to start."""
        pace = tokens / max(monotonic() - self._began_s, 1e-3)
        self._show(done, total, f"{self._name} {tokens} tokens, {pace:.0f} tokens/s")


def _task_files(spec: EvaluationSpec) -> list[str]:
    """The text of each task that is a file of the user's."""
    tasks: tuple[str, ...] = () if spec.harness is None else spec.harness.tasks
    return [storage.read_text("evaluation.harness.tasks", path) for task in tasks if (path := Path(task)).is_file()]
