"""An engine made of many: replicas in Ray actors, work in chunks, a dead replica replaced and its chunk redone."""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from time import sleep
from types import TracebackType
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from obliviate.cluster import check_resources, cores_share, worker_environment
from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference.choice import chosen
from obliviate.inference.engine import Engine, Generation, ScoredText, WhiteBox
from obliviate.inference.limits import by_prompt
from obliviate.inference.vllm import VLLMEngine, vllm_environment
from obliviate.models import load_tokenizer
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec

log = logging.getLogger(__name__)

Progress = Callable[[int, int, int], None]  # texts done, texts in all, tokens generated or scored so far
OnChunk = Callable[[Sequence[int], Sequence[Any]], None]  # places in the call's list, their results
PLACEMENT_NOTICE_S = 60.0
DEATHS = 2  # of replicas with the same chunk in hand, after which it is taken for their cause
RESTARTS, RESTART_POLL_S = 100, 1.0


class Replica:
    """One engine in one process. Every call names the model, so that a restarted actor opens the right one again."""

    def __init__(self, spec: EngineSpec, cpus: float, rests: bool) -> None:
        self._spec, self._cpus, self._rests = spec, cpus, rests
        self._model: ModelSpec | None = None
        self._engine: Engine | None = None

    def open(self, model: ModelSpec) -> Engine:
        if self._engine is None or model != self._model:
            self._model = None  # whatever fails on the way, the next call begins anew
            self._engine = self._with(model)
            self._model = model
        return self._engine

    def _with(self, model: ModelSpec) -> Engine:
        if isinstance(self._engine, VLLMEngine):
            self._engine.load(model)
            return self._engine
        import torch

        self._engine = None  # before the next one: two would share the memory
        torch.set_num_threads(max(1, int(self._cpus)))
        if self._spec.type == "vllm":
            return VLLMEngine.open(model, self._spec, rests=self._rests)
        from obliviate.inference.hf import HFEngine

        return HFEngine.open(model, self._spec)

    def ready(self, model: ModelSpec) -> None:
        self.open(model)

    def rest(self) -> None:
        if not isinstance(self._engine, VLLMEngine):
            self._model = self._engine = None
            _free_memory()
        elif self._rests:
            self._model = None  # what is at rest has no weights
            self._engine.rest()

    def generate(
        self, model: ModelSpec, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec
    ) -> list[list[Generation]]:
        return self.open(model).generate(prompts, sampling)

    def score(self, model: ModelSpec, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self.open(model).score(texts)

    def moments(self, model: ModelSpec, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self._white_box(model).moments(texts)

    def gradient_norms(self, model: ModelSpec, texts: Sequence[Encoded]) -> list[float | None]:
        return self._white_box(model).gradient_norms(texts)

    def _white_box(self, model: ModelSpec) -> WhiteBox:
        assert self._spec.type == "hf", "vLLM shows neither moments nor gradients"
        return cast(WhiteBox, self.open(model))


@dataclass(frozen=True)
class Placement:
    """The engine that a spec comes to on this cluster, and what each replica takes of it."""

    spec: EngineSpec  # `type` is "vllm" or "hf"
    cpus: float
    gpus: float


def place(spec: EngineSpec, *, within: bool = False) -> Placement:
    """`within` as of EnginePool. Raises UserError for what the cluster can never hold, and for an engine that is not
    installed."""
    spec, gpus = chosen(spec)
    if gpus and (within or gpus < 1):
        # vLLM takes its share of a whole GPU, whatever else is placed there; `within`, judges and a CUDA context are.
        share = min(spec.gpu_memory_utilization, (0.8 if within else 0.9) * min(gpus, 1.0))
        spec = spec.model_copy(update={"gpu_memory_utilization": share})
    cpus = spec.cpus_per_replica or cores_share(spec.replicas, gpus)
    check_resources("engine.replicas", spec.replicas, cpus, gpus)
    return Placement(spec, cpus, gpus)


class EnginePool:
    """Satisfies Engine while entered. Ray must be initialised (obliviate.cluster.ensure_ray).

    `on_progress` hears of every chunk that is done. `within`: the replicas run on this node and take nothing of the
    cluster but what this process holds already. Raises UserError where an engine cannot start, and where the same chunk
    kills two replicas in a row.
    """

    def __init__(
        self, model: ModelSpec, spec: EngineSpec, *, on_progress: Progress | None = None, within: bool = False
    ) -> None:
        self._model, self._spec, self._on_progress, self._within = model, spec, on_progress, within
        self._replicas: list[Any] = []
        self._placement: Placement | None = None

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    @property
    def engine_type(self) -> str | None:
        """ "vllm" or "hf"; None until entered."""
        return None if self._placement is None else self._placement.spec.type

    def __enter__(self) -> "EnginePool":
        placement = place(self._spec, within=self._within)
        self._placement = placement
        vllm = vllm_environment(placement.gpus > 0) if placement.spec.type == "vllm" else {}
        actor = ray.remote(Replica).options(
            max_restarts=-1,  # with resources of their own on another node, where it was the node that died
            runtime_env={"env_vars": worker_environment() | vllm | (_shared_environment() if self._within else {})},
            **(_here() if self._within else _anywhere(placement)),
        )
        self._replicas = [
            actor.remote(placement.spec, placement.cpus, self._within and placement.gpus > 0)
            for _ in range(self._spec.replicas)
        ]
        try:
            self._open(placement)
        except BaseException:
            self._close()
            raise
        return self

    def _open(self, placement: Placement) -> None:
        opening = [replica.ready.options(max_task_retries=1).remote(self._model) for replica in self._replicas]
        _, late = ray.wait(opening, num_returns=len(opening), timeout=PLACEMENT_NOTICE_S)
        if late:
            log.warning(
                "%d of %d replicas are not ready after %.0f s: the model is large, or the cluster has no %g CPUs and "
                "%g GPUs free for each (engine.cpus_per_replica, engine.gpus_per_replica)",
                len(late), len(opening), PLACEMENT_NOTICE_S, placement.cpus, placement.gpus,
            )  # fmt: skip
        for ref in opening:
            try:
                result(ref)
            except RayActorError as error:
                if error.actor_init_failed:  # not the engine, which opens later: the package is missing there, say
                    raise
                raise UserError(self._unloadable("twice")) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    @property
    def rests(self) -> bool:
        """Whether it can rest. vLLM with a GPU of its own has to be closed: it would not leave its memory to others."""
        return self._within or self.engine_type == "hf" or (self._placement is not None and not self._placement.gpus)

    def load(self, model: ModelSpec, on_progress: Progress | None) -> None:
        """From now on answer for another model, for vLLM one of the same obliviate.models.architecture: its weights
        are read at the next call."""
        self._model, self._on_progress = model, on_progress

    def rest(self) -> None:
        """Until the next `load`, leave the GPU's memory to others; vLLM on a CPU keeps its own."""
        for ref in [replica.rest.remote() for replica in self._replicas]:
            result(ref)

    def _close(self) -> None:
        for replica in self._replicas:
            ray.kill(replica)
        self._replicas = []

    def generate(
        self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec, on_chunk: OnChunk | None = None
    ) -> list[list[Generation]]:
        """`on_chunk` gets the results of each chunk as it ends, in any order: what it writes survives a crash."""
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        chunks = self._run("generate", order, prompts, prompts, sampling)
        return self._collect(chunks, len(prompts), lambda _, samples: sum(len(g.token_ids) for g in samples), on_chunk)

    def score(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]:
        """`on_chunk` as of `generate`."""
        return self._of_texts("score", texts, on_chunk)

    def moments(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]:
        """On Hugging Face alone, as `gradient_norms`."""
        return self._of_texts("moments", texts, on_chunk)

    def gradient_norms(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[float | None]:
        return self._of_texts("gradient_norms", texts, on_chunk)

    def _of_texts(self, method: str, texts: Sequence[Encoded], on_chunk: OnChunk | None) -> list[Any]:
        ids = [text.input_ids for text in texts]
        chunks = self._run(method, by_prompt(texts), ids, texts)
        return self._collect(chunks, len(texts), lambda i, _: len(texts[i].answer_ids), on_chunk)

    def _collect(
        self,
        chunks: Iterator[tuple[list[int], list[Any]]],
        total: int,
        tokens_of: Callable[[int, Any], int],
        on_chunk: OnChunk | None,
    ) -> list[Any]:
        """The chunks' results in the order of the call's list."""
        results: dict[int, Any] = {}
        tokens = 0
        for indices, chunk in chunks:
            results |= zip(indices, chunk, strict=True)
            tokens += sum(map(tokens_of, indices, chunk))
            if on_chunk is not None:
                on_chunk(indices, chunk)
            if self._on_progress is not None:
                self._on_progress(len(results), total, tokens)
        return [results[i] for i in range(total)]

    def _run(
        self, method: str, order: list[int], ids: Sequence[tuple[int, ...]], items: Sequence[Any], *arguments: Any
    ) -> Iterator[tuple[list[int], list[Any]]]:
        """Chunks as they end: places in `items`, results. `ids` are the items' tokens, for messages.

        `order` has the longest first: a chunk's texts are alike in length, memory runs out at once or never, the last
        chunks are short.
        """
        assert self._replicas, "an EnginePool works inside its with block"
        size = max(1, min(self._spec.chunk_size, ceil(len(order) / len(self._replicas))))
        left = deque(order[start : start + size] for start in range(0, len(order), size))
        idle = deque(self._replicas)
        pending: dict[Any, tuple[Any, list[int]]] = {}  # what a replica has in hand; nothing while it starts again
        deaths: Counter[int] = Counter()  # by a chunk's first place
        attempts = 0  # to start replicas again
        while left or any(chunk for _, chunk in pending.values()):
            while left and idle:
                replica, chunk = idle.popleft(), left.popleft()
                call = getattr(replica, method).remote(self._model, [items[i] for i in chunk], *arguments)
                pending[call] = (replica, chunk)
            (ref,), _ = ray.wait(list(pending), num_returns=1)
            replica, chunk = pending.pop(ref)
            try:
                results = result(ref)
            except RayActorError as error:
                attempts += 1
                if attempts > RESTARTS:
                    raise UserError(self._unloadable(f"{RESTARTS} times")) from error
                if chunk:
                    deaths[chunk[0]] += 1
                    if deaths[chunk[0]] == DEATHS:
                        raise UserError(self._deadly(ids[chunk[0]])) from error
                    left.appendleft(chunk)  # for whoever is free first
                # Until Ray knows that a node is gone it fails every call to what ran there, at once.
                sleep(RESTART_POLL_S)
                pending[replica.ready.remote(self._model)] = (replica, [])
                continue
            idle.append(replica)
            if chunk:
                yield chunk, results

    def _unloadable(self, times: str) -> str:
        return (
            f"engine.replicas={self._spec.replicas}: a replica died {times} while loading {self._model.source}, most "
            "likely for want of memory; lower engine.replicas or use a smaller model"
        )

    def _deadly(self, ids: tuple[int, ...]) -> str:
        text = load_tokenizer(self._model).decode(list(ids))
        return (
            f"engine.chunk_size={self._spec.chunk_size}: two replicas in a row died on the chunk that begins with "
            f"{text[:80]!r} ({len(ids)} tokens), most likely for want of memory; lower engine.chunk_size, "
            "engine.batch_tokens or engine.max_model_len"
        )


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _anywhere(placement: Placement) -> dict[str, Any]:
    """Options of an actor with resources of its own."""
    return {
        "num_cpus": placement.cpus,
        "num_gpus": placement.gpus,
        # Inside a Ray Tune trial actors would be placed in what the trial reserved for itself alone.
        "scheduling_strategy": PlacementGroupSchedulingStrategy(placement_group=None),
    }


def _here() -> dict[str, Any]:
    """Options of an actor that shares what this process holds."""
    node = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _shared_environment() -> dict[str, str]:
    """Shows an actor, which asks Ray for no GPU, those of this process; and keeps vLLM in the actor's process, where
    VLLMEngine.load reaches the model."""
    devices = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
    return {**devices, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def result(ref: Any) -> Any:
    """What a replica returned; what it raised, a user's mistake as such."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        if type(error.cause).__name__ == "OutOfMemoryError":  # torch's, which this process may do without
            raise UserError(
                "engine: a replica ran out of GPU memory; lower engine.batch_tokens, engine.chunk_size or "
                "engine.max_model_len, or with vLLM engine.gpu_memory_utilization"
            ) from None
        raise
