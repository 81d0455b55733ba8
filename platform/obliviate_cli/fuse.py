"""`obliviate fuse`: an adapter for each request, trained side by side, and one model of all of them in closed form.

A request is added by training its adapter alone, and withdrawn by leaving it out: what was trained before is found.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from rich.console import Console

from obliviate import storage
from obliviate.config import RunSpec, Unlearning, UnlearnRun, build, expand_method, load
from obliviate.data import DataSpec
from obliviate.errors import UserError
from obliviate.fusion import GRAMS, fuse
from obliviate.linear import adapted_weights
from obliviate.models import load_pretrained, name_elsewhere, save, skeleton
from obliviate.runs import RUN_FILE, Run, record_of, whole_folder
from obliviate.schema import ClusterSpec, LoraSpec, ModelSpec, OptimSpec
from obliviate.source import adapter_of, export_dtype
from obliviate_cli import plan
from obliviate_cli.card import write_card
from obliviate_cli.console import open_console
from obliviate_cli.progress import progress
from obliviate_cli.stages import MODEL, finish, unlearn_job
from obliviate_cli.verbs import show

ADAPTER = "adapter"  # folder of the fused adapter, beside that of the whole model


class FuseRun(Unlearning, RunSpec):
    """Efficient unlearning with small layers (EUL, arXiv:2310.20150)."""

    title: str = "fused"
    model: ModelSpec  # the base of all adapters; `lora` says what they are like
    requests: dict[str, DataSpec] = Field({})  # name -> what it asks to forget, and what to keep
    adapters: dict[str, str] = Field({})  # name -> run of an earlier request (folder or URL), of the same base
    optim: OptimSpec = OptimSpec()
    ridge: float = Field(1e-3, gt=0)  # added to the Gram matrices' diagonals, as a share of their mean
    concurrency: int = Field(1, ge=1)  # adapters trained at a time
    cluster: ClusterSpec = ClusterSpec()  # what each gets; one worker
    seed: int = Field(0, ge=0)
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


def main(path: Path, overrides: list[str], dry_run: bool) -> None:
    config, console = load(FuseRun, path, overrides), open_console()
    if dry_run:
        check(config)
        lines = [f"{name}: {line}" for name in config.requests for line in plan.unlearn(config.unlearning(name))]
        show(config, [*lines, f"fuse {len(config.requests) + len(config.adapters)} adapters"], console)
    else:
        console.print(f"model: {storage.name(fuse_requests(config, console))}")


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


def fuse_requests(config: FuseRun, console: Console) -> Path:
    """The folder of the fused model: whole, or with model.lora.merge: false its adapter.

    Raises UserError as `check` does.
    """
    check(config)
    runs = _train(config, console)
    earlier = {name: storage.fetch_loose(storage.local(run).expanduser()) for name, run in config.adapters.items()}
    inputs = {name: run.content for name, run in runs.items()}
    inputs |= {name: _content(name, folder, config.model.revision) for name, folder in earlier.items()}
    settings = {"ridge": config.ridge, "merge": _merges(config), "export_dtype": config.model.export_dtype}
    whole = config.model_dump(mode="json")
    run = Run.open(Path(config.runs), "fuse", config.title, settings, inputs, whole_config=whole)
    if run.done:
        console.print(f"fuse: done already, in {storage.name(run.directory)}")
        return run.directory / str(run.summary["model"])
    with run.locked():
        folders = {name: each.directory for name, each in runs.items()} | earlier
        adapters = {name: storage.fetch(folder / MODEL) for name, folder in folders.items()}
        fuse(adapters, name_elsewhere(config.model.source), run.directory / ADAPTER, config.ridge)
        if _merges(config):
            _merge(config.model, run.directory)
            write_card(run, MODEL)
        run.finish(model=MODEL if _merges(config) else ADAPTER, adapters=sorted(adapters))
    return run.directory / str(run.summary["model"])


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


def _merges(config: FuseRun) -> bool:
    return config.model.lora is None or config.model.lora.merge


def _train(config: FuseRun, console: Console) -> dict[str, Run]:
    """The run of each request, its adapter and Gram matrices in it."""
    from obliviate.train.adapters import Request, launch_adapters

    found: dict[str, Run] = {}
    left: dict[str, Request] = {}
    for name in config.requests:
        one = config.unlearning(name)
        run, job = unlearn_job(one, one.data.load(), console)
        found[name] = run
        if run.done and (run.directory / GRAMS).exists():
            console.print(f"{name}: done already, in {storage.name(run.directory)}")
        else:
            left[name] = Request(job, run.directory / MODEL)
    if not left:
        return found
    with ExitStack() as stack:
        for name in left:
            stack.enter_context(found[name].locked())
        update = stack.enter_context(progress(console, "train adapters"))
        done: list[str] = []

        def on_done(name: str) -> None:
            finish(found[name])
            done.append(name)
            update(len(done), len(left), name)

        launch_adapters(left, config.cluster, config.concurrency, on_done)
    return found


def _merge(spec: ModelSpec, directory: Path) -> None:
    """The base with the fused adapter added to its weights, in float32."""
    import torch
    from peft import PeftModel

    base, _ = load_pretrained(spec, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(base, str(directory / ADAPTER)).merge_and_unload()
    with whole_folder(directory / MODEL) as temporary:
        save(merged, spec, temporary, export_dtype(spec))
