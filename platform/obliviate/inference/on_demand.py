"""A model's engines, opened when they are first needed: what is on disk already starts none."""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from ray.exceptions import RayError

from obliviate.cluster import ensure_ray
from obliviate.data.text import Encoded
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.pool import EnginePool, OnChunk, Progress
from obliviate.inference.vllm import reloads
from obliviate.models import architecture
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec


class OnDemand:
    """Satisfies WhiteBox until closed: one pool at a time, of the engine that the spec asks for, or of Hugging Face
    where only that can answer. Raises UserError as EnginePool does, at the first call.

    `address` is that of the Ray cluster, which is joined at the first call, too; `within` as of EnginePool.
    """

    def __init__(
        self, model: ModelSpec, spec: EngineSpec, address: str | None, on_progress: Progress, *, within: bool = False
    ) -> None:
        self._model, self._spec, self._address, self._on_progress = model, spec, address, on_progress
        self._within = within
        self._architecture: dict[str, Any] | None = None  # of what vLLM runs
        self._pool: EnginePool | None = None
        self._opened = ExitStack()

    def __enter__(self) -> "OnDemand":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def load(self, model: ModelSpec, on_progress: Progress) -> None:
        """From now on answer for another model: by the engines that are open, where they can take its weights."""
        self._model, self._on_progress = model, on_progress
        if self._pool is None:
            return
        open_one = self._architecture
        if self.open_type == "hf" or (
            model.revision is None and open_one is not None and reloads(open_one) and architecture(model) == open_one
        ):
            self._pool.load(model, on_progress)
        else:
            self.close()

    def rest(self) -> None:
        """Until the next `load`, leave the GPU's memory to others."""
        if self._pool is None:
            return
        if not self._pool.rests:
            self.close()
            return
        try:
            self._pool.rest()
        except RayError:  # it has answered all that it was asked
            self.close()

    def close(self) -> None:
        self._opened.close()
        self._pool = self._architecture = None

    def generate(
        self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec, on_chunk: OnChunk | None = None
    ) -> list[list[Generation]]:
        return self._open(self._spec).generate(prompts, sampling, on_chunk)

    def score(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]:
        return self._open(self._spec).score(texts, on_chunk)

    def moments(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]:
        return self._open(self._white_box).moments(texts, on_chunk)

    def gradient_norms(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[float | None]:
        return self._open(self._white_box).gradient_norms(texts, on_chunk)

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    @property
    def open_type(self) -> str | None:
        """Type of the open engine, "vllm" or "hf"; None where no engine is open."""
        return None if self._pool is None else self._pool.engine_type

    @property
    def _white_box(self) -> EngineSpec:
        return self._spec.model_copy(update={"type": "hf", "tensor_parallel": 1})

    def _open(self, spec: EngineSpec) -> EnginePool:
        """The open pool, if it is of this engine; else another in its place: two would share the memory."""
        if self._pool is None or (self._pool.spec != spec and self._pool.engine_type != spec.type):
            self.close()
            ensure_ray(self._address)
            pool = EnginePool(self._model, spec, on_progress=self._on_progress, within=self._within)
            self._pool = self._opened.enter_context(pool)
            if self.open_type == "vllm":
                self._architecture = architecture(self._model)
        return self._pool
