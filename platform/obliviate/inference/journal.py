"""An engine whose answers are kept on disk as they come: a job that was killed asks only for what is missing.

One JSON file for each chunk that ended, written whole; what a damaged one held is asked for again. An answer is found
again by what was asked: the token ids, and how they were to be continued. What the folder belongs to (a model, a
precision) is the business of who names it.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from obliviate.data.text import Encoded
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.pool import OnChunk
from obliviate.runs import content_hash, read_part, write_part
from obliviate.schema import GenerationSpec


class Chunked(Protocol):
    """A WhiteBox that tells of every chunk as it ends."""

    def generate(
        self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec, on_chunk: OnChunk | None = None
    ) -> list[list[Generation]]: ...

    def score(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]: ...

    def moments(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]: ...

    def gradient_norms(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[float | None]: ...


class Journal:
    """Satisfies WhiteBox. `discard` it once what was made of the answers is on disk."""

    def __init__(self, engine: Chunked, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._known: dict[str, Any] = {}
        for chunk in folder.glob("*.json"):
            self._known |= read_part(chunk) or {}

    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        how = sampling.model_dump(mode="json")
        return self._ask(
            [content_hash(["generate", how, prompt]) for prompt in prompts],
            lambda places, on_chunk: self._engine.generate([prompts[i] for i in places], sampling, on_chunk),
            dump=lambda samples: [asdict(sample) for sample in samples],
            load=lambda samples: [_generation(sample) for sample in samples],
        )

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self._of_texts("score", self._engine.score, texts, asdict, _scored)

    def moments(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self._of_texts("moments", self._engine.moments, texts, asdict, _scored)

    def gradient_norms(self, texts: Sequence[Encoded]) -> list[float | None]:
        return self._of_texts("gradient_norms", self._engine.gradient_norms, texts, _as_it_is, _as_it_is)

    def _of_texts(
        self,
        method: str,
        ask: Callable[..., list[Any]],
        texts: Sequence[Encoded],
        dump: Callable[[Any], Any],
        load: Callable[[Any], Any],
    ) -> list[Any]:
        keys = [content_hash([method, text.prompt_length, text.input_ids]) for text in texts]
        return self._ask(keys, lambda places, on_chunk: ask([texts[i] for i in places], on_chunk), dump, load)

    def _ask(
        self,
        keys: Sequence[str],
        ask: Callable[[list[int], OnChunk], object],
        dump: Callable[[Any], Any],
        load: Callable[[Any], Any],
    ) -> list[Any]:
        """`ask` computes the answers at these places. Each answer is read back, known before or not: one path."""
        missing = [place for place, key in enumerate(keys) if key not in self._known]

        def on_chunk(done: Sequence[int], results: Sequence[Any]) -> None:
            chunk = {keys[missing[i]]: dump(result) for i, result in zip(done, results, strict=True)}
            write_part(self._folder / f"{uuid.uuid4().hex}.json", chunk)
            self._known |= chunk

        if missing:
            ask(missing, on_chunk)
        return [load(self._known[key]) for key in keys]


def _generation(values: dict[str, Any]) -> Generation:
    return Generation(values["text"], tuple(values["token_ids"]), values["finished"])


def _scored(values: dict[str, Any]) -> ScoredText:
    return ScoredText(**{name: tuple(column) for name, column in values.items()})


def _as_it_is(value: Any) -> Any:
    return value
