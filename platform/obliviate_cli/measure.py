"""Evaluation as a stage: each model's records and figures are a run of their own, done once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from rich.console import Console

from obliviate import fit, storage
from obliviate.config_file import RunSpec
from obliviate.data import DataSpec
from obliviate.data.rows import Corpus
from obliviate.errors import UserError
from obliviate.guardrail import label
from obliviate.models import content_of, locate, portable
from obliviate.runs import RUN_FILE, Run, content_hash
from obliviate.schema import ModelSpec
from obliviate.source import weights_dtype
from obliviate_cli import cautions
from obliviate_cli.card import COLLAPSED, write_card
from obliviate_cli.progress import Update, progress
from obliviate_eval.judges.prompt import read_prompt
from obliviate_eval.records import RECORDS_FILE, Record
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation

if TYPE_CHECKING:
    from obliviate.data.text import TextEncoder
    from obliviate.inference.engine import WhiteBox
    from obliviate.inference.on_demand import OnDemand
    from obliviate_eval.harness import Tasks
    from obliviate_eval.judges import Judges

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
        """The folder of the evaluation run. `retain`: that of the retain model, for forget quality."""
        model = portable(model)  # for engines and later reports, which run in other folders
        config = {
            "evaluation": self.spec.model_dump(mode="json", exclude=PLACEMENT),
            "model": model.model_dump(mode="json"),
        }
        inputs = {"model": content_of(model), "data": self.corpus.evaluation_content}
        if retain is not None:
            inputs["retain"] = retain.name
        if judges := _judges(self.spec):
            inputs["judges"] = content_hash(judges)
        if files := _task_files(self.spec):
            inputs["tasks"] = content_hash(files)
        run = Run.open(self.runs, "evaluate", name, config, inputs)
        if run.done:
            self.console.print(f"evaluate {name}: done already, in {storage.name(run.directory)}")
        else:
            with run.locked(wait=self.wait):
                if not run.done:  # by whoever held the lock before
                    self._measure(name, model, retain, run)
        return run.directory

    def _measure(self, name: str, model: ModelSpec, retain: Path | None, run: Run) -> None:
        from obliviate.models import date_warnings, load_tokenizer, text_encoder
        from obliviate_eval.run import evaluate

        fit.check(model)
        fit.check_rows(model, [row for each in self.corpus.evaluation for row in each.rows])
        encoder = text_encoder(model, load_tokenizer(model))
        found = [
            *cautions.of_data(self.corpus, self.spec),
            *dtype_warnings(name, model, self.spec.engine.dtype),
            *date_warnings(model, encoder),
            *cautions.of_texts(encoder, self.corpus, self.spec.suite, model),
        ]
        for warning in found:
            self.console.print(f"warning: {warning}", style="yellow")
        judges = self.judges
        with progress(self.console, f"evaluate {name}") as show:
            stage = _Stage(show)
            answers = run.directory / ANSWERS
            with self._engine(model, answers, stage) as engine:
                tasks = self._tasks(engine, encoder, model)
                evaluation = evaluate(
                    engine,
                    encoder,
                    self.corpus.evaluation,
                    self.spec,
                    judges,
                    run.directory,
                    stage.begin,
                    reference_records=None if retain is None else self._records(retain),
                    tasks=tasks,
                )
        if evaluation.collapsed:
            self.console.print(f"warning: {name}: {COLLAPSED}", style="yellow")
        unanswered = {} if judges.verdict is None else judges.verdict.unanswered
        for warning in (cautions.of_answers(self._records(run.directory)), cautions.of_verdicts(unanswered)):
            if warning:
                self.console.print(f"warning: {name}: {warning}", style="yellow")
        self._update_card(model, evaluation)
        run.finish(records=RECORDS_FILE, metrics=METRICS_FILE)
        storage.remove(answers)  # not before: what fails on the way asks for nothing again

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
        from obliviate_eval.records import read_records

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
    return [path.read_text(encoding="utf-8") for task in tasks if (path := Path(task)).is_file()]
