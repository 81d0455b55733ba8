"""A model at work behind Ray Serve: renders what a client sent, keeps to the limits, streams the engine's events."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ray import serve

from obliviate.digests import damage_of_folder
from obliviate.errors import UserError
from obliviate.models import locate, portable
from obliviate.schema import ModelSpec
from obliviate_serve.engine import (
    Bare,
    Chat,
    Delta,
    Event,
    Opening,
    Prompt,
    Prompted,
    Quiz,
    Rendered,
    Sampling,
    ServingEngine,
)
from obliviate_serve.errors import ApiError, EngineDiedError, unavailable
from obliviate_serve.render import Renderer
from obliviate_serve.spec import ServingEngineSpec
from obliviate_serve.transport import listen_where_the_node_does
from obliviate_serve.turns import Turns

# No text that says anything has more on average. Telling a longer one by its tokens would hold up everybody's answers:
# a replica reads prompts and passes answers on in one thread.
CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class Loading:
    """What a replica needs to load a model. `engine.type` is "vllm" or "hf"; `adapters`: name -> source."""

    model: ModelSpec
    engine: ServingEngineSpec
    adapters: Mapping[str, str]
    prompt_tokens: int  # the longest prompt that is allowed
    new_tokens: int  # the longest answer


class Model:
    """An engine with its template."""

    def __init__(self, engine: ServingEngine, renderer: Renderer, prompt_tokens: int, new_tokens: int) -> None:
        self._engine, self._renderer = engine, renderer
        self._prompt_limit, self._new_limit = min(prompt_tokens, engine.context), new_tokens
        self._turns = Turns()

    @classmethod
    def load(cls, loading: Loading) -> "Model":
        """Raises UserError where there is no such model. Takes a while."""
        for source in (loading.model.source, *loading.adapters.values()):
            _require_whole(Path(locate(source)))
        if loading.engine.type == "vllm":
            from obliviate_serve.vllm import VLLMServingEngine as Engine
        else:
            import torch

            from obliviate_serve.hf import HFServingEngine as Engine  # type: ignore[assignment]

            torch.set_num_threads(max(1, int(loading.engine.cpus_per_replica)))
        adapters = {name: locate(source) for name, source in loading.adapters.items()}
        engine = Engine(portable(loading.model), loading.engine, adapters)
        return cls(
            engine, Renderer(portable(loading.model), engine.tokenizer), loading.prompt_tokens, loading.new_tokens
        )

    async def stream(self, prompt: Prompt, sampling: Sampling, adapter: str | None) -> AsyncIterator[Event]:
        """Raises ApiError for a prompt that is too long or that the template refuses. Of a quiz with an answer, the
        answer alone is echoed."""
        self._check_length(prompt)
        self._check_sampling(sampling)
        ids, before_answer = self._renderer(prompt)
        if sampling.max_tokens == 0 and not sampling.echo:
            if self._renderer.guarded:
                raise ApiError(400, "this model is behind a guardrail, whose words its tokens would tell")
            yield Rendered(ids, self._renderer.text(ids), self._engine.context)
            return
        sampling = replace(
            sampling,
            max_tokens=self._room(len(ids), sampling.max_tokens),
            echo_from=before_answer if isinstance(prompt, Quiz) else 0,
        )
        async with (
            self._turns.turn(alone=sampling.alone),
            aclosing(self._engine.stream(ids, sampling, adapter)) as events,  # type: ignore[type-var]
        ):
            async for event in events:
                if isinstance(event, Prompted) and isinstance(prompt, Quiz) and prompt.answer is not None:
                    yield event._replace(key=self._renderer.key_places(prompt, ids, before_answer))
                else:
                    yield event

    def _check_sampling(self, sampling: Sampling) -> None:
        if sampling.logit_bias:
            self._renderer.require_known([token for token, _ in sampling.logit_bias], "logit_bias")
        if sampling.json_schema is not None and not self._engine.guides:
            raise ApiError(
                400, "this model's engine cannot keep to JSON; serve it with engine.type=vllm", param="response_format"
            )

    def _check_length(self, prompt: Prompt) -> None:
        """Before anything is done with it."""
        length, limit = _characters(prompt), self._prompt_limit * CHARACTERS_PER_TOKEN
        if length > limit:
            raise ApiError(
                400,
                f"the prompt has {length} characters; this model takes up to {self._prompt_limit} tokens, and of no "
                f"more than {limit} characters",
                param="prompt",
                code="context_length_exceeded",
            )

    def _room(self, length: int, asked: int | None) -> int:
        """Tokens to generate."""
        context = self._engine.context
        if length > self._prompt_limit or length == context:
            raise ApiError(
                400,
                f"the prompt has {length} tokens; this model takes up to {min(self._prompt_limit, context - 1)}",
                param="prompt",
                code="context_length_exceeded",
            )
        room = context - length
        if asked is not None and asked > self._new_limit:
            raise ApiError(
                400, f"max_tokens is {asked}; this server generates up to {self._new_limit}", param="max_tokens"
            )
        if asked is not None and asked > room:
            raise ApiError(
                400,
                f"the prompt has {length} tokens and max_tokens is {asked}; together they exceed the context of "
                f"{context} tokens",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return min(room, self._new_limit) if asked is None else asked

    @property
    def dead(self) -> bool:
        return self._engine.dead

    def close(self) -> None:
        self._engine.close()


def _characters(prompt: Prompt) -> int:
    """Of all its texts; token ids are none."""
    match prompt:
        case str():
            return len(prompt)
        case Bare(text):
            return len(text)
        case Chat(messages):
            return sum(len(text) for _, text in messages)
        case Quiz(question, prefix, answer):
            return len(question) + len(prefix) + len(answer or "") + sum(len(text) for _, text in prompt.history)
        case _:
            return 0


async def _opened(events: AsyncIterator[Event]) -> AsyncIterator[Opening | Delta]:
    """The first two events in one message: passing one on costs a good part of a short answer's time."""
    async with aclosing(events):  # type: ignore[type-var]
        prompted, first = await anext(events), await anext(events)
        assert isinstance(prompted, Prompted)
        assert isinstance(first, Delta)
        yield Opening(prompted, first)
        async for event in events:
            assert isinstance(event, Delta)
            yield event


class Replica:
    """A model that is always loaded."""

    async def __init__(self, loading: Loading) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        listen_where_the_node_does()
        self._model = Model.load(loading)

    async def stream(self, prompt: Prompt, sampling: Sampling, adapter: str | None) -> AsyncIterator[Opening | Delta]:
        async for message in _opened(self._events(prompt, sampling, adapter)):
            yield message

    async def complete(self, prompt: Prompt, sampling: Sampling, adapter: str | None) -> list[Event]:
        return [event async for event in self._events(prompt, sampling, adapter)]

    async def _events(self, prompt: Prompt, sampling: Sampling, adapter: str | None) -> AsyncIterator[Event]:
        try:
            async for event in self._model.stream(prompt, sampling, adapter):
                yield event
        except EngineDiedError:
            _end_this_process()
            raise

    def check_health(self) -> None:
        """Ray Serve asks now and then, and starts a replica again that fails to answer."""
        if self._model.dead:
            _end_this_process()


class Lent:
    """A model on demand, with a count of those who use it."""

    def __init__(self, model: Model) -> None:
        self.model, self._users, self._closed, self._free = model, 0, False, threading.Event()
        self._free.set()

    @contextmanager
    def use(self) -> Iterator[Model]:
        self._users += 1
        self._free.clear()
        try:
            yield self.model
        finally:
            self._users -= 1
            if not self._users:
                self._free.set()

    def __del__(self) -> None:
        """Ray Serve calls it, in a thread, to put the model away for another; Python calls it again at the end."""
        self._free.wait()
        if not self._closed:
            self._closed = True
            self.model.close()


def on_demand_replica(size: int) -> type:
    """The class of replicas that hold up to `size` models, which Ray Serve wants to know when the class is made."""

    class OnDemandReplica:
        """Models loaded when they are asked for. `known`: how, by name; `unknown`: likewise, of a mere folder."""

        def __init__(self, known: Mapping[str, Loading], unknown: Loading, start_s: float) -> None:
            listen_where_the_node_does()
            self._known, self._unknown, self._start_s = known, unknown, start_s
            self._loading: set[asyncio.Future[Lent]] = set()

        @serve.multiplexed(max_num_models_per_replica=size)  # type: ignore[untyped-decorator]
        async def _lend(self, name: str) -> Lent:
            """The `size` models used last are kept, and requests go to where their model is."""
            unknown = replace(self._unknown, model=self._unknown.model.model_copy(update={"source": name}))
            # In a thread: requests to other models go on, and Ray Serve takes a loop that stands still for dead.
            return Lent(await asyncio.to_thread(Model.load, self._known.get(name, unknown)))

        async def _lent(self, name: str) -> Lent:
            """Within `start_s`. Who gives up leaves the loading to itself: it is there for the next, and cut off in the
            middle it would hold its memory without being anybody's."""
            loading = asyncio.ensure_future(self._lend(name))
            self._loading.add(loading)
            loading.add_done_callback(self._loaded)
            try:
                async with asyncio.timeout(self._start_s):
                    return await asyncio.shield(loading)
            except UserError as error:
                raise unavailable(
                    "the model could not be loaded; the server's log says why", reason=str(error)
                ) from error
            except TimeoutError as error:
                what = f"the model was not loaded within {self._start_s:g} s"
                raise unavailable(f"{what}; it may be loading still, or wait for models in use") from error

        def _loaded(self, loading: "asyncio.Future[Lent]") -> None:
            self._loading.discard(loading)
            if not loading.cancelled():
                loading.exception()  # whoever waited has it; where nobody does any more, it is no mistake of ours

        async def stream(self, name: str, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Opening | Delta]:
            """Raises ApiError where the model cannot be loaded; the next call tries again."""
            async for message in _opened(self._events(name, prompt, sampling)):
                yield message

        async def complete(self, name: str, prompt: Prompt, sampling: Sampling) -> list[Event]:
            return [event async for event in self._events(name, prompt, sampling)]

        async def _events(self, name: str, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
            with (await self._lent(name)).use() as model:
                if model.dead:
                    _end_this_process()
                async for event in model.stream(prompt, sampling, None):
                    yield event

    return OnDemandReplica


def _end_this_process() -> None:
    """A replica without its engine answers nothing; Ray Serve starts another at once where the process is gone."""
    os._exit(1)


def _require_whole(folder: Path) -> None:
    """Raises UserError where the files that one of our runs wrote are not as it wrote them; all are read."""
    for name, what in damage_of_folder(folder).items():
        raise UserError(f"models: {folder / name}: {what}; restore it, or make the model again")
