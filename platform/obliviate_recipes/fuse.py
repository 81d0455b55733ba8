"""`obliviate fuse`: an adapter for each request, trained side by side, and one model of all of them in closed form.

A request is added by training its adapter alone, and withdrawn by leaving it out: what was trained before is found.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from obliviate import storage
from obliviate.config import Unlearning, UnlearnRun, build, expand_method
from obliviate.data import DataSpec
from obliviate.errors import UserError
from obliviate.fusion import fuse
from obliviate.linear import adapted_weights
from obliviate.models import load_pretrained, name_elsewhere, save, skeleton
from obliviate.runs import RUN_FILE, Run, record_of, whole_folder
from obliviate.schema import ClusterSpec, LoraSpec, ModelSpec, OptimSpec
from obliviate.source import adapter_of, export_dtype
from obliviate.tracking import Tracked
from obliviate_recipes.events import Events
from obliviate_recipes.recipe import Recipe
from obliviate_recipes.stage import MODEL, Determined, Stage, finish, perform, unmade
from obliviate_recipes.stages.card import write_card
from obliviate_recipes.stages.composed import adapter_stage
from obliviate_recipes.stages.unlearning import Adapter

ADAPTER = "adapter"  # folder of the fused adapter, beside that of the whole model


class FuseRun(Unlearning, Tracked):
    """Efficient unlearning with small layers (EUL, arXiv:2310.20150)."""

    title: str = "fused"
    model: ModelSpec  # the base of all adapters; `lora` says what they are like
    requests: dict[str, DataSpec] = Field(default={})  # name -> what it asks to forget, and what to keep
    adapters: dict[str, str] = Field(default={})  # name -> run of an earlier request (folder or URL), of the same base
    optim: OptimSpec = OptimSpec()
    ridge: float = Field(default=1e-3, gt=0)  # added to the Gram matrices' diagonals, as a share of their mean
    concurrency: int = Field(default=1, ge=1)  # adapters trained at a time
    cluster: ClusterSpec = ClusterSpec()  # what each gets; one worker
    seed: int = Field(default=0, ge=0)
    runs: str = "runs"

    @classmethod
    def long_form(cls, values: Any) -> Any:
        return expand_method(values)

    @model_validator(mode="after")
    def _something_to_fuse(self) -> "FuseRun":
        if not self.requests and not self.adapters:
            raise ValueError("requests: there are none, and no adapters; give at least one request with its data")
        if twice := sorted(set(self.requests) & set(self.adapters)):
            raise ValueError(f"adapters.{twice[0]}: is among the requests too; give each a name of its own")
        if self.cluster.workers != 1:
            raise ValueError(f"cluster.workers: {self.cluster.workers}: an adapter is trained by one; set concurrency")
        if self.method.negation is not None:
            raise ValueError(
                f"method: {self.method.type}: what it learns is to be subtracted, and fused adapters are added; take "
                "eul, or `obliviate unlearn`"
            )
        return self

    def unlearning(self, name: str) -> UnlearnRun:
        """The config of one request's adapter, which is kept as such."""
        lora = (self.model.lora or LoraSpec()).model_copy(update={"merge": False})
        values = {
            "name": name,
            "model": {**self.model.model_dump(), "lora": lora.model_dump()},
            "data": self.requests[name].model_dump(),
            **self.unlearning_keys,
            "optim": self.optim.model_dump(),
            "cluster": self.cluster.model_dump(),
            "seed": self.seed,
            "runs": self.runs,
        }
        return build(UnlearnRun, values, where=f"requests.{name}")


class Fuse(Recipe[FuseRun, ModelSpec]):
    """An adapter for each request, and what they come to."""

    takes: ClassVar = FuseRun

    @cached_property
    def stages(self) -> Sequence[Stage]:
        check(self.config)
        config = self.config
        trained = {name: config.unlearning(name) for name in config.requests}
        return [Fused(config, {name: adapter_stage(run, run.data.load()) for name, run in trained.items()})]

    @property
    def at_a_time(self) -> int:
        return self.config.concurrency

    def conclude(self, events: Events) -> ModelSpec:
        (fused,) = self.stages
        folder = fused.run.directory / str(fused.run.summary["model"])
        events.said(f"model: {storage.name(folder)}")
        return self.config.model.at(storage.name(folder)).model_copy(update={"lora": None, "revision": None})


def check(config: FuseRun) -> None:
    """Raises UserError for a model whose adapters could not be fused, before any of them is trained."""
    if adapter_of(config.model) is not None:
        raise UserError(
            f"model.source: {config.model.source}: is an adapter, which each request would train further, and fused it "
            "would count as often; give its base, or the whole model"
        )
    apart = [name for name, weight in adapted_weights(skeleton(config.model)).items() if not weight.plain]
    if apart:
        raise UserError(
            f"model.source: {config.model.source}: {apart[0]} belongs to a mixture of experts, of which no Gram matrix "
            "says what each reads; have all requests forgotten in one run of `obliviate unlearn`"
        )


@dataclass(frozen=True)
class Fused(Stage):
    """One model of all adapters: whole, or with model.lora.merge: false their sum as an adapter."""

    kind: ClassVar = "fuse"

    config: FuseRun
    trained: Mapping[str, Adapter]

    @property
    def label(self) -> str:
        return self.config.title

    @property
    def title(self) -> str:
        return f"fuse {len(self.trained) + len(self.config.adapters)} adapters"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return tuple(self.trained.values())

    @cached_property
    def earlier(self) -> dict[str, Path]:
        """The runs of earlier requests."""
        given = self.config.adapters.items()
        return {name: storage.fetch_loose(storage.local(run).expanduser()) for name, run in given}

    def determined(self) -> Determined:
        model = self.config.model
        inputs = {name: each.run.content for name, each in self.trained.items()}
        inputs |= {name: _content(name, folder, model.revision) for name, folder in self.earlier.items()}
        settings = {"ridge": self.config.ridge, "merge": self._merges, "export_dtype": model.export_dtype}
        return Determined(settings, inputs, whole=self.config.model_dump(mode="json"))

    def prepare(self, events: Events) -> Iterable[Stage]:
        """Trains the adapters side by side."""
        from obliviate.train.adapters import AdapterJob, launch_adapters

        left = {name: each for name, each in self.trained.items() if not each.done}
        perform([need for each in left.values() for need in each.needs], events)
        with ExitStack() as stack:
            jobs: dict[str, AdapterJob] = {}
            for name, each in left.items():
                if (run := stack.enter_context(unmade(each))) is not None:
                    jobs[name] = AdapterJob(each.job(run, events), each.folder)
            if not jobs:
                return ()
            update = stack.enter_context(events.progressing("train adapters"))
            done: list[str] = []

            def on_done(name: str) -> None:
                finish(left[name], **left[name].written(left[name].run, events))
                done.append(name)
                update(len(done), len(jobs), name)

            launch_adapters(jobs, self.config.cluster, self.config.concurrency, on_done)
        return left.values()

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        folders = {name: each.folder for name, each in self.trained.items()}
        folders |= {name: folder / MODEL for name, folder in self.earlier.items()}
        adapters = {name: storage.fetch(folder) for name, folder in folders.items()}
        fuse(adapters, name_elsewhere(self.config.model.source), run.directory / ADAPTER, self.config.ridge)
        if self._merges:
            _merge(self.config.model, run.directory)
            write_card(run, MODEL)
        return {"model": MODEL if self._merges else ADAPTER, "adapters": sorted(adapters)}

    @property
    def _merges(self) -> bool:
        return self.config.model.lora is None or self.config.model.lora.merge


def _content(name: str, folder: Path, revision: str | None) -> str:
    """Of an earlier request's run. Its adapter does not say itself on which revision of its base it was trained."""
    if not (folder / RUN_FILE).exists():
        raise UserError(
            f"adapters.{name}: {storage.url_of(folder) or folder}: is no run (no {RUN_FILE} in it); give the folder of "
            "a request's run"
        )
    record = record_of(folder)
    if (theirs := record["config"].get("model", {}).get("revision")) != revision:
        raise UserError(
            f"adapters.{name}: {storage.url_of(folder) or folder}: was trained on revision {theirs} of its base model, "
            f"and model.revision is {revision}; train it again on this one, or give that revision"
        )
    content: str = record["content"]
    return content


def _merge(spec: ModelSpec, directory: Path) -> None:
    """The base with the fused adapter added to its weights, in float32."""
    import torch
    from peft import PeftModel

    base, _ = load_pretrained(spec, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(base, str(directory / ADAPTER)).merge_and_unload()
    with whole_folder(directory / MODEL) as temporary:
        save(merged, spec, temporary, export_dtype(spec))
