"""Evaluation as a stage: each model's records and figures are a run of their own, done once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import Field, model_validator
from rich.console import Console

from obliviate.cluster import ensure_ray
from obliviate.config import RunSpec
from obliviate.data import DataSpec
from obliviate.data.rows import Corpus
from obliviate.inference.engine import Engine
from obliviate.models import content_of, load_tokenizer, locate, portable, text_encoder
from obliviate.runs import RUN_FILE, Run
from obliviate.schema import ModelSpec
from obliviate_cli.card import write_card
from obliviate_cli.progress import progress
from obliviate_eval.judges import Judges
from obliviate_eval.judges.load import load_judges
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.run import evaluate
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation

# What changes how fast texts are measured, but not what is measured.
PLACEMENT = {
    "engine": {"replicas", "cpus_per_replica", "gpus_per_replica", "tensor_parallel", "batch_tokens", "chunk_size",
               "gpu_memory_utilization"},
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

    `in_process`: a Hugging Face engine in this process instead of engines on Ray actors, for a process that has the
    device to itself already.
    """

    corpus: Corpus
    spec: EvaluationSpec
    address: str | None
    runs: Path
    console: Console
    in_process: bool = False

    def __call__(self, name: str, model: ModelSpec, retain: Path | None = None) -> Path:
        """The folder of the evaluation run. `retain`: that of the retain model, for forget quality."""
        model = portable(model)  # for engines and later reports, which run in other folders
        config = {
            "evaluation": self.spec.model_dump(mode="json", exclude=PLACEMENT),
            "model": model.model_dump(mode="json"),
        }
        inputs = {"model": content_of(model), "data": self.corpus.content}
        if retain is not None:
            inputs["retain"] = retain.name
        run = Run.open(self.runs, "evaluate", name, config, inputs)
        if run.done:
            self.console.print(f"evaluate {name}: done already, in {run.directory}")
        else:
            self._measure(name, model, retain, run)
        return run.directory

    def _measure(self, name: str, model: ModelSpec, retain: Path | None, run: Run) -> None:
        judges = self.judges
        encoder = text_encoder(model, load_tokenizer(model))
        with progress(self.console, f"evaluate {name}") as show:
            stage = ""

            def on_stage(what: str, done: int, total: int) -> None:
                nonlocal stage
                stage = what
                show(done, total, what)

            def on_texts(done: int, total: int, tokens: int) -> None:
                show(done, total, f"{stage} {tokens} tokens")

            with self._engine(model, on_texts) as engine:
                evaluation = evaluate(
                    engine,
                    encoder,
                    self.corpus.evaluation,
                    self.spec,
                    judges,
                    run.directory,
                    on_stage,
                    reference_records=None if retain is None else read_records(retain / RECORDS_FILE),
                )
        _update_card(model, evaluation)
        run.finish(records=RECORDS_FILE, metrics=METRICS_FILE)

    def _engine(self, model: ModelSpec, on_texts: Callable[[int, int, int], None]) -> AbstractContextManager[Engine]:
        if self.in_process:
            from obliviate.inference.hf import HFEngine

            return nullcontext(HFEngine.open(model, self.spec.engine))
        from obliviate.inference.pool import EnginePool

        ensure_ray(self.address)
        return EnginePool(model, self.spec.engine, on_progress=on_texts)

    @cached_property
    def judges(self) -> Judges:
        return load_judges(self.spec)


def _update_card(model: ModelSpec, evaluation: Evaluation) -> None:
    """A model that one of our runs made gets the figures into its card."""
    folder = Path(locate(model.source))
    if (folder.parent / RUN_FILE).exists():
        write_card(Run(folder.parent, ""), folder.name, evaluation)
