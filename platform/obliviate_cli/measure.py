"""Evaluation in two stages, each a run of its own: a model's records, which take an engine and its hours, and figures
of them, which take seconds and are made anew where a suite, a judge or a metric's code is another."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pydantic import Field, TypeAdapter, model_validator
from rich.console import Console

from obliviate import fit, plugins, storage
from obliviate.config_file import RunSpec
from obliviate.data import DataSpec
from obliviate.data.rows import Corpus
from obliviate.errors import UserError
from obliviate.guardrail import label
from obliviate.models import content_of, locate, portable
from obliviate.runs import RUN_FILE, Run, content_hash, write_json
from obliviate.schema import ModelSpec
from obliviate.source import weights_dtype
from obliviate_cli import cautions
from obliviate_cli.card import COLLAPSED, write_card
from obliviate_cli.progress import Update, progress
from obliviate_eval.asked import asked_of_engine, suite_of
from obliviate_eval.content import content_of_code, content_of_suite
from obliviate_eval.judges.prompt import read_prompt
from obliviate_eval.records import RECORDS_FILE, Record, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import METRICS_FILE, Evaluation

if TYPE_CHECKING:
    from obliviate.data.text import TextEncoder
    from obliviate.inference.engine import WhiteBox
    from obliviate.inference.on_demand import OnDemand
    from obliviate_eval.harness import Tasks
    from obliviate_eval.judges import Judges

TASKS_FILE = "tasks.json"  # figures of general ability: they come from the engine, as records do
TASKS = TypeAdapter(dict[str, dict[str, Figure]])
FIGURES = {"judge", "resamples", "seed"}  # what changes the figures of the same records, besides suite and judges
ANSWERS = "answers"  # the folder of what the engine said, chunk by chunk, until the records are written
# What changes how fast texts are measured, but not what is measured.
PLACEMENT = {
    "engine": {"replicas", "cpus_per_replica", "gpus_per_replica", "tensor_parallel", "batch_tokens", "chunk_size",
               "gpu_memory_utilization"},
    "judge": {"api_key_env", "concurrency", "retries", "timeout_s"},
}  # fmt: skip


class EvaluateRun(RunSpec):
    """`obliviate evaluate`: models measured side by side on the same items."""

    models: dict[str, ModelSpec] = Field(min_length=1)  # name -> model
    retain_model: str | None = None  # the name of the one that never saw the forget set: gives forget quality
    data: DataSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    address: str | None = None  # of the Ray cluster, as in cluster.address
    runs: str = "runs"

    @model_validator(mode="after")
    def _retain_model_is_one(self) -> "EvaluateRun":
        if self.retain_model is not None and self.retain_model not in self.models:
            raise ValueError(f"retain_model: {self.retain_model!r} is not among models: {', '.join(self.models)}")
        return self


@dataclass
class Measure:
    """Measures one model after another; encoder and NLI model are loaded once, at the first that needs them.

    `within`: what this process holds is enough, for one that has the device to itself already. A Hugging Face engine is
    then opened in it, and vLLM's replicas stay open from model to model; otherwise engines take resources of their own
    for each. `wait`: for another process that measures the same, instead of giving up.
    """

    corpus: Corpus
    spec: EvaluationSpec
    address: str | None
    runs: Path
    console: Console
    within: bool = False
    wait: bool = False
    _kept: "OnDemand | None" = field(default=None, init=False)
    _read: dict[Path, list[Record]] = field(default_factory=dict, init=False)

    def __call__(self, name: str, model: ModelSpec, retain: Path | None = None) -> Path:
        """The folder of the figures. `retain`: that of the retain model's, for forget quality."""
        model = portable(model)  # for engines and later reports, which run in other folders
        asked = self._asked(model)
        run = self._figures_run(name, model, retain, content_hash(asked))
        if run.done:
            self.console.print(f"evaluate {name}: done already, in {storage.name(run.directory)}")
        else:
            with run.locked(wait=self.wait):
                if not run.done:  # by whoever held the lock before
                    judges = self.judges  # first: one that is missing fails before an hour of generation
                    self._warn(cautions.of_data(self.corpus, self.spec))
                    self._figures(name, model, retain, run, self._records_run(name, model, *asked), judges)
        return run.directory

    def _asked(self, model: ModelSpec) -> tuple[dict[str, Any], dict[str, str]]:
        """What determines the records: config and inputs of their run."""
        config = {
            "model": model.model_dump(mode="json"),
            "engine": self.spec.engine.model_dump(mode="json", exclude=PLACEMENT["engine"]),
            **asked_of_engine(self.spec, self.corpus.evaluation),
        }
        inputs = {"model": content_of(model), "data": self.corpus.evaluation_content}
        if files := _task_files(self.spec):
            inputs["tasks"] = content_hash(files)
        return config, inputs

    def _figures_run(self, name: str, model: ModelSpec, retain: Path | None, records: str) -> Run:
        """`records`: the hash of what determines them."""
        suite = suite_of(self.spec)
        inputs = {"records": records, "suite": content_of_suite(suite), "code": content_of_code()}
        if (others := plugins.content((*suite.metrics, *suite.comparisons))) is not None:
            inputs["others"] = others
        if retain is not None:
            inputs["retain"] = retain.name
        if judges := _judges(self.spec):
            inputs["judges"] = content_hash(judges)
        computed = self.spec.model_dump(mode="json", include=FIGURES, exclude={"judge": PLACEMENT["judge"]})
        whole = self.spec.model_dump(mode="json", exclude=PLACEMENT)
        config = {"evaluation": whole, "model": model.model_dump(mode="json")}
        return Run.open(self.runs, "evaluate", name, computed, inputs, whole_config=config)

    def _records_run(self, name: str, model: ModelSpec, config: dict[str, Any], inputs: dict[str, str]) -> Path:
        run = Run.open(self.runs, "records", name, config, inputs)
        if run.done:
            self.console.print(f"records {name}: there already, in {storage.name(run.directory)}")
            return run.directory
        with run.locked(wait=self.wait):
            if not run.done:
                self._ask(name, model, run)
        return run.directory

    def _ask(self, name: str, model: ModelSpec, run: Run) -> None:
        from obliviate.models import date_warnings, load_tokenizer, text_encoder
        from obliviate_eval.run import records

        fit.check(model)
        fit.check_rows(model, [row for each in self.corpus.evaluation for row in each.rows])
        encoder = text_encoder(model, load_tokenizer(model))
        self._warn(dtype_warnings(name, model, self.spec.engine.dtype))
        self._warn(date_warnings(model, encoder))
        self._warn(cautions.of_texts(encoder, self.corpus, self.spec, model))
        with progress(self.console, f"evaluate {name}") as show:
            stage = _Stage(show)
            answers = run.directory / ANSWERS
            with self._engine(model, answers, stage) as engine:
                tasks = self._tasks(engine, encoder, model)
                records(engine, encoder, self.corpus.evaluation, self.spec, run.directory, stage.begin)
        write_json(run.directory / TASKS_FILE, TASKS.dump_python(tasks, mode="json"))
        run.finish(records=RECORDS_FILE, tasks=TASKS_FILE)
        storage.remove(answers)  # not before: what fails on the way asks for nothing again

    def _figures(
        self, name: str, model: ModelSpec, retain: Path | None, run: Run, collected: Path, judges: "Judges"
    ) -> None:
        from obliviate_eval.run import figures

        records = read_records(storage.fetch(collected / RECORDS_FILE))
        with progress(self.console, f"figures {name}") as show:
            evaluation = figures(
                records,
                self.spec,
                judges,
                run.directory,
                _Stage(show).begin,
                reference_records=None if retain is None else self._records(retain),
                tasks=TASKS.validate_json(storage.fetch(collected / TASKS_FILE).read_bytes()),
            )
        unanswered = {} if judges.verdict is None else judges.verdict.unanswered
        found = [cautions.of_answers(records), cautions.of_verdicts(unanswered)]
        self._warn(f"{name}: {each}" for each in (COLLAPSED if evaluation.collapsed else None, *found) if each)
        self._update_card(model, evaluation)
        run.finish(records=RECORDS_FILE, metrics=METRICS_FILE)

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self.console.print(f"warning: {warning}", style="yellow")

    @contextmanager
    def _engine(self, model: ModelSpec, folder: Path, stage: "_Stage") -> "Iterator[WhiteBox]":
        """What engines on Ray actors say is on disk as it comes, in `folder`."""
        from obliviate.inference.pool import place

        if self.within and (self.spec.engine.type == "hf" or place(self.spec.engine).spec.type == "hf"):
            from obliviate.inference.hf import HFEngine

            yield HFEngine.open(model, self.spec.engine)
            return
        from obliviate.inference.journal import Journal
        from obliviate.inference.on_demand import OnDemand

        if not self.within:
            with OnDemand(model, self.spec.engine, self.address, stage.update) as engines:
                yield Journal(engines, folder)
            return
        if self._kept is None:
            self._kept = OnDemand(model, self.spec.engine, self.address, stage.update, within=True)
        try:
            self._kept.load(model, stage.update)
            yield Journal(self._kept, folder)
            self._kept.rest()
        except BaseException:
            self._kept.close()
            raise

    def _tasks(self, engine: "WhiteBox", encoder: "TextEncoder", model: ModelSpec) -> "Tasks":
        """Of the lm-evaluation-harness."""
        if self.spec.harness is None:
            return {}
        try:
            from obliviate_eval.harness import run_tasks
        except ModuleNotFoundError as error:
            raise UserError(
                f"evaluation.harness: {error.name} is not installed; pip install 'obliviate[harness]', or leave it out"
            ) from error
        from obliviate.inference.request import context_limit
        from obliviate.models import load_config

        length = context_limit(self.spec.engine, load_config(model))
        return run_tasks(engine, encoder, length, self.spec.harness)

    def _update_card(self, model: ModelSpec, evaluation: Evaluation) -> None:
        """A model that one of our runs made gets the figures into its card, where that may be written."""
        folder = Path(locate(model.source))
        if not (folder.parent / RUN_FILE).exists():
            return
        behind = None if model.guardrail is None else label(model.guardrail)
        try:
            write_card(Run(folder.parent, ""), folder.name, evaluation, behind, self.spec.engine.dtype)
        except OSError as error:
            self.console.print(f"warning: {folder}: the model's card stays as it was: {error.strerror}", style="yellow")

    def _records(self, run: Path) -> list[Record]:
        """Read once for all models."""
        if run not in self._read:
            self._read[run] = read_records(storage.fetch(run / RECORDS_FILE))
        return self._read[run]

    @cached_property
    def judges(self) -> "Judges":
        from obliviate_eval.judges.load import load_judges

        return load_judges(self.spec, judged_folder(self.runs))


def dtype_warnings(name: str, model: ModelSpec, dtype: str) -> list[str]:
    """Where the engine has the weights in another dtype than the one that they are stored, and served, in."""
    stored = weights_dtype(model)
    if stored is None or stored == dtype:
        return []
    how = f"rounded to {dtype}" if stored == "float32" else f"computed in {dtype}"
    return [
        f"evaluation.engine.dtype: {dtype}: the weights of {name} are {stored}: its figures hold for the model {how}; "
        f"set evaluation.engine.dtype={stored} for those of the model as it is stored"
    ]


class _Stage:
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


def judged_folder(runs: Path) -> Path:
    """Of what judges behind endpoints have replied, for all runs."""
    return storage.local(runs) / "judged"


def _judges(spec: EvaluationSpec) -> dict[str, str]:
    """Each judge's content; of a language model's, the prompt's text."""
    named = {name: getattr(spec, name) for name in ("encoder", "nli", "fluency")}
    found = {name: content_of(ModelSpec(source=source)) for name, source in named.items() if source is not None}
    return found if spec.judge is None else {**found, "prompt": read_prompt(spec.judge.prompt)}


def _task_files(spec: EvaluationSpec) -> list[str]:
    """The text of each task that is a file of the user's."""
    tasks: tuple[str, ...] = () if spec.harness is None else spec.harness.tasks
    return [storage.read_text("evaluation.harness.tasks", path) for task in tasks if (path := Path(task)).is_file()]
