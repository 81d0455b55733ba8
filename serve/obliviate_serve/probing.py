"""Probes: the same question to several models under several attacks, with all that can be measured of the answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from math import exp
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from obliviate_serve.api import (
    Alternative,
    Answer,
    AnswerEvent,
    AttackList,
    ChangeEvent,
    DoneEvent,
    ErrorEvent,
    ProbeEvent,
    ProbeRequest,
    ProbeResponse,
    ProbeResult,
    Probing,
    Question,
    RenderedPrompt,
    RenderRequest,
    RenderResponse,
    StartEvent,
    TokenEvent,
    TokenInfo,
    TrueAnswer,
    TrueAnswerEvent,
)
from obliviate_serve.attacks import infos
from obliviate_serve.cases import Case, Collected, Plan, plan
from obliviate_serve.engine import Delta, Event, Prompted, Rendered, Sampling, Token
from obliviate_serve.errors import ApiError, EngineDiedError
from obliviate_serve.openai import ERRORS
from obliviate_serve.refusal import is_refusal
from obliviate_serve.server import Server
from obliviate_serve.sse import error_body, line, merged, respond, together
from obliviate_serve.whole import whole


@dataclass(frozen=True)
class Failed:
    """A case that came to nothing, and why."""

    index: int
    error: ApiError | EngineDiedError


Found = TokenEvent | AnswerEvent | TrueAnswerEvent | ChangeEvent | Failed


def routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=ERRORS)

    @router.get("/attacks")
    async def attacks() -> AttackList:
        """What `attacks` of a probe may name."""
        return AttackList(data=infos())

    @router.post("/render")
    async def render(asked: RenderRequest, http: Request) -> RenderResponse:
        """The prompts that a probe would send, as the models' templates lay them out. Nothing is generated."""
        server.journal.asked(http.state.record, asked.models, asked.texts, attacks=asked.attacks)
        planned = plan(server, Probing(models=asked.models, attacks=asked.attacks), asked)
        return RenderResponse(data=await together(_rendered(server, case) for case in planned.cases))

    @router.post("/probe", response_model=ProbeResponse)
    async def probe(asked: ProbeRequest, http: Request) -> Response:
        """One question to several models. With `stream`, server-sent events instead of one object."""
        server.journal.asked(http.state.record, asked.models, asked.texts, attacks=asked.attacks)
        planned = plan(server, asked, asked)
        _check_size(server, asked, planned.cases)
        id_ = f"probe-{uuid4().hex}"
        if asked.stream:
            return await respond(_lines(server, id_, asked, asked, planned))
        results = await answer(server, asked, asked, planned.cases, server.turns())
        empty = ProbeResponse(
            id=id_,
            created=int(time.time()),
            deterministic=asked.deterministic,
            reference=asked.reference,
            key=planned.key,
            results=[],
        )
        head = empty.model_dump(exclude={"results"})
        return await whole(head, "results", (each.model_dump_json() for each in results))

    return router


async def _rendered(server: Server, case: Case) -> RenderedPrompt:
    asked = case.asked.model_dump()
    try:
        (found,) = await server.complete(case.target, case.quiz, Sampling(max_tokens=0))
    except (ApiError, EngineDiedError) as error:
        return RenderedPrompt(**asked, prompt=None, tokens=None, error=error_body(error))
    assert isinstance(found, Rendered)
    return RenderedPrompt(**asked, prompt=found.text, tokens=len(found.ids), error=None)


def _check_size(server: Server, asked: ProbeRequest, cases: Sequence[Case]) -> None:
    true = [server.most_tokens(case.target, asked.answer or "") for case in cases]
    size = (len(cases) * (asked.samples + 1) * asked.max_tokens + sum(true)) * (asked.alternatives + 1)
    product = "models x attacks x ((samples + 1) x max_tokens + bytes of the true answer) x (alternatives + 1)"
    server.check_size(size, product)


async def answer(
    server: Server, probing: Probing, question: Question, cases: Sequence[Case], turns: asyncio.Semaphore
) -> list[ProbeResult]:
    """Raises ApiError or EngineDiedError where one of them fails."""
    collected = Collected(probing, cases)
    async with aclosing(_found(server, probing, question, collected, turns)) as found:  # type: ignore[type-var]
        async for event in found:
            if isinstance(event, Failed):
                raise event.error
    return collected.results()


async def _found(
    server: Server, probing: Probing, question: Question, collected: Collected, turns: asyncio.Semaphore
) -> AsyncIterator[Found]:
    """All cases side by side. One that fails tells so, and the others go on."""
    streams = []
    for i, case in enumerate(collected.cases):
        streams += [_answered(server, probing, question, i, case, k, turns) for k in (None, *range(probing.samples))]
        if question.answer is not None:
            streams.append(_scored(server, probing, question.answer, i, case, turns))
    async with aclosing(merged(streams)) as found:  # type: ignore[type-var]
        async for _, event in found:
            yield event
            match event:
                case TokenEvent():
                    continue
                case AnswerEvent():
                    collected.answers[event.index, event.sample] = event.answer
                case TrueAnswerEvent():
                    collected.true[event.index] = event.true_answer
                case Failed():
                    collected.failed.add(event.index)
            for index, changed in collected.new_changes():
                yield ChangeEvent(index=index, change=changed)


async def _lines(server: Server, id_: str, probing: Probing, question: Question, planned: Plan) -> AsyncIterator[bytes]:
    start = StartEvent(
        id=id_,
        deterministic=probing.deterministic,
        reference=probing.reference,
        key=planned.key,
        asked=[case.asked for case in planned.cases],
    )
    yield line(start.model_dump())
    collected = Collected(probing, planned.cases)
    async with aclosing(_found(server, probing, question, collected, server.turns())) as found:  # type: ignore[type-var]
        async for each in found:
            event: ProbeEvent = (
                ErrorEvent(index=each.index, error=error_body(each.error)) if isinstance(each, Failed) else each
            )
            yield line(event.model_dump())
    yield line(DoneEvent().model_dump())


async def _answered(
    server: Server,
    probing: Probing,
    question: Question,
    index: int,
    case: Case,
    sample: int | None,
    turns: asyncio.Semaphore,
) -> AsyncIterator[Found]:
    """The tokens of a greedy answer as they come, then the whole answer; of a sampled one the answer alone."""
    sampling = Sampling(
        max_tokens=probing.max_tokens,
        temperature=0.0,
        logprobs=probing.alternatives,
        entropy=True,
        stream=not probing.deterministic,
        alone=probing.deterministic,
    )
    if sample is not None:
        seed = probing.seed + sample
        sampling = replace(sampling, temperature=probing.temperature, top_p=probing.top_p, seed=seed)
    text, tokens, finish = "", [], "length"
    try:
        async with turns, aclosing(_events(server, case, sampling)) as found:  # type: ignore[type-var]
            async for event in found:
                if not isinstance(event, Delta):
                    continue
                text += event.text
                finish = event.finish or finish
                for token in map(_shown, event.tokens):
                    tokens.append(token)
                    if sample is None:
                        yield TokenEvent(index=index, token=token)
        yield AnswerEvent(
            index=index,
            sample=sample,
            answer=Answer(
                text=text,
                tokens=tokens,
                finish_reason="stop" if finish == "stop" else "length",
                logp=_sum_and_mean(tokens)[0],
                refusal=is_refusal(text),
                entailment=await _entailment(server, text, question.answer),
            ),
        )
    except (ApiError, EngineDiedError) as error:
        yield Failed(index, error)


async def _events(server: Server, case: Case, sampling: Sampling) -> AsyncIterator[Event]:
    """Of an answer that is made alone all at once: a client that reads slowly must not keep the model to itself."""
    if sampling.alone:
        for event in await server.complete(case.target, case.quiz, sampling):
            yield event
        return
    async with aclosing(server.stream(case.target, case.quiz, sampling)) as events:  # type: ignore[type-var]
        async for event in events:
            yield event


async def _scored(
    server: Server, probing: Probing, true_answer: str, index: int, case: Case, turns: asyncio.Semaphore
) -> AsyncIterator[Found]:
    quiz = replace(case.quiz, answer=true_answer, key=case.key)
    sampling = Sampling(
        max_tokens=0,
        temperature=0.0,
        logprobs=probing.alternatives,
        entropy=True,
        echo=True,
        alone=probing.deterministic,
    )
    try:
        async with turns:
            found = await server.complete(case.target, quiz, sampling)
    except (ApiError, EngineDiedError) as error:
        yield Failed(index, error)
        return
    (prompted,) = [event for event in found if isinstance(event, Prompted)]
    tokens = [_shown(token) for token in prompted.tokens]
    key = [tokens[place] for place in prompted.key]
    (logp, mean), (key_logp, key_mean) = _sum_and_mean(tokens), _sum_and_mean(key)
    yield TrueAnswerEvent(
        index=index,
        true_answer=TrueAnswer(
            text=true_answer,
            tokens=tokens,
            logp=logp,
            mean_logp=mean,
            probability=None if mean is None else exp(mean),
            key=list(prompted.key),
            key_logp=key_logp,
            key_probability=None if key_mean is None else exp(key_mean),
        ),
    )


async def _entailment(server: Server, text: str, true_answer: str | None) -> str | None:
    if true_answer is None:
        return None
    labels = await server.backend.entailment([(text, true_answer)])
    return None if labels is None else labels[0]


def _shown(token: Token) -> TokenInfo:
    alternatives = [Alternative(text=text, logp=logp) for text, logp in token.alternatives]
    return TokenInfo(
        text=token.text, logp=token.logp, entropy=token.entropy, rank=token.rank, alternatives=alternatives
    )


def _sum_and_mean(tokens: Sequence[TokenInfo]) -> tuple[float, float] | tuple[None, None]:
    """Of log-probabilities. None where any is not known, or there is none."""
    logps = [token.logp for token in tokens if token.logp is not None]
    if not tokens or len(logps) < len(tokens):
        return None, None
    return sum(logps), sum(logps) / len(logps)
