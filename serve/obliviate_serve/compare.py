"""Comparisons: a set of questions to several models as a job, with progress. Jobs live as long as the server does."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from obliviate_serve.api import ProbeRequest, Probing
from obliviate_serve.auth import ANYBODY, Caller
from obliviate_serve.backend import Backend
from obliviate_serve.cases import asked_ways, check_names, plan
from obliviate_serve.compare_api import AskedQuestion, ComparedQuestion, CompareJob, CompareRequest, CompareTable, Only
from obliviate_serve.engine import Event, Prompt, Sampling
from obliviate_serve.errors import RETRY_AFTER_S, ApiError, EngineDiedError, busy, failed
from obliviate_serve.names import Target
from obliviate_serve.openai import ERRORS
from obliviate_serve.probing import answer
from obliviate_serve.server import Server
from obliviate_serve.sets import Sets
from obliviate_serve.sse import error_body
from obliviate_serve.table import row, shows, tallies
from obliviate_serve.whole import whole

log = logging.getLogger(__name__)

QUESTIONS_AT_ONCE = 4  # of one job
MAX_JOBS_KEPT = 32  # the oldest finished ones give way
CHARACTERS_PER_TOKEN = 4  # of a true answer, about: its tokens are each model's own


@dataclass
class Job:
    request: CompareRequest
    owner: Caller
    id: str = field(default_factory=lambda: f"compare-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    status: Literal["running", "done", "cancelled"] = "running"
    results: dict[int, ComparedQuestion] = field(default_factory=dict)
    task: asyncio.Task[Any] | None = None

    @cached_property
    def size(self) -> int:
        """About the most that it can come to hold: tokens of answers, and the alternatives shown at each. Raises
        ApiError for attacks that there aren't, or that a question lacks something for."""
        asked, tokens = self.request, 0
        for question in asked.questions:
            ways = len(asked_ways(asked, question, one_of_many=True))
            true = len(question.answer or "") // CHARACTERS_PER_TOKEN
            tokens += ways * ((asked.samples + 1) * asked.max_tokens + true)
        return len(asked.models) * tokens * (asked.alternatives + 1)

    def table(self, only: Only) -> CompareTable:
        rows = [row(self.request.questions[i], self.results[i]) for i in sorted(self.results)]
        return CompareTable(
            id=self.id,
            created=self.created,
            status=self.status,
            done=len(rows),
            total=len(self.request.questions),
            models=self.request.models,
            reference=self.request.reference,
            tallies=tallies(rows),
            rows=[each for each in rows if shows(each, only, self.request.reference)],
        )

    def question(self, index: int) -> AskedQuestion:
        """Raises ApiError 404 where it has not been answered, or there is none."""
        if index not in self.results:
            raise ApiError(404, f"question {index} of {self.id} has no answers", param="index", code="not_found")
        probing = self.request.model_dump(include=set(Probing.model_fields))
        request = ProbeRequest(**probing, **self.request.questions[index].model_dump())
        return AskedQuestion(request=request, compared=self.results[index])

    async def shown(self, status: int = 200) -> Response:
        """A CompareJob."""
        done = [self.results[i] for i in sorted(self.results)]
        head = CompareJob(
            id=self.id,
            created=self.created,
            status=self.status,
            done=len(done),
            total=len(self.request.questions),
            questions=[],
        ).model_dump(exclude={"questions"})
        response = await whole(head, "questions", (each.model_dump_json() for each in done))
        response.status_code = status
        return response


class Patient:
    """The way to the models for a job: where a client would be told to come back later, it does."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.entailment, self.ready = backend.entailment, backend.ready

    async def complete(self, target: Target, prompt: Prompt, sampling: Sampling) -> list[Event]:
        while True:
            try:
                return await self._backend.complete(target, prompt, sampling)
            except ApiError as error:
                await _later(error)

    async def stream(self, target: Target, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Event]:
        while True:
            try:
                async with aclosing(self._backend.stream(target, prompt, sampling)) as events:  # type: ignore[type-var]
                    async for event in events:
                        yield event
                return
            except ApiError as error:
                await _later(error)


async def _later(error: ApiError) -> None:
    """The time for another try, where a model's queue is full; that is told before anything else. Else raises it."""
    if error.status != 429:
        raise error
    await asyncio.sleep(error.retry_after_s or RETRY_AFTER_S)


class Jobs:
    def __init__(self, server: Server) -> None:
        self._server = replace(server, backend=Patient(server.backend))
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def start(self, request: CompareRequest, owner: Caller) -> Job:
        """Raises ApiError for names that there aren't, for too much at once, and where too many jobs run."""
        job, limits = Job(request, owner), self._server.spec.limits
        if job.size > limits.compare_tokens:
            raise ApiError(
                400,
                "questions x models x attacks x (samples + 1) x max_tokens x (alternatives + 1), with the true "
                f"answers, is {job.size}, more than {limits.compare_tokens}; ask in several comparisons, or for less "
                "of each",
                param="questions",
                code="comparison_too_large",
            )
        check_names(self._server, request)
        running = [job for job in self._jobs.values() if job.status == "running"]
        if len(running) >= limits.compare_jobs:
            raise busy(f"{len(running)} comparisons are running already")
        self._make_room(job.size)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job))
        return job

    def _make_room(self, size: int) -> None:
        """The oldest finished jobs give way to one of this size; running ones never do."""
        limits = self._server.spec.limits
        room = limits.compare_jobs * limits.compare_tokens - size
        for old in [job for job in self._jobs.values() if job.status != "running"]:
            if len(self._jobs) < MAX_JOBS_KEPT and sum(job.size for job in self._jobs.values()) <= room:
                return
            del self._jobs[old.id]

    def get(self, id_: str, caller: Caller) -> Job:
        """Raises ApiError 404 for a job that there isn't, or that is another's."""
        job = self._jobs.get(id_)
        if job is None or job.owner.name != caller.name:
            raise ApiError(404, f"there is no comparison {id_!r} of yours", param="id", code="not_found")
        return job

    def cancel(self, job: Job) -> None:
        if job.status == "running" and job.task is not None:
            job.status = "cancelled"
            job.task.cancel()

    async def _run(self, job: Job) -> None:
        limit, turns = asyncio.Semaphore(QUESTIONS_AT_ONCE), self._server.turns()
        async with asyncio.TaskGroup() as group:
            for index in range(len(job.request.questions)):
                group.create_task(self._ask(job, index, limit, turns))
        job.status = "done"

    async def _ask(self, job: Job, index: int, limit: asyncio.Semaphore, turns: asyncio.Semaphore) -> None:
        question = job.request.questions[index]
        async with limit:
            try:
                planned = plan(self._server, job.request, question, one_of_many=True)
                results = await answer(self._server, job.request, question, planned.cases, turns)
                job.results[index] = ComparedQuestion(index=index, key=planned.key, results=results, error=None)
            except (ApiError, EngineDiedError) as error:
                job.results[index] = ComparedQuestion(index=index, results=[], error=error_body(error))
            # A job outlives the request that began it: nobody else is there to tell, and it must come to its end.
            except Exception as error:
                log.exception("%s: question %d", job.id, index)
                job.results[index] = ComparedQuestion(index=index, results=[], error=failed("the server", error).body)


def routes(server: Server, sets: Sets) -> APIRouter:
    router = APIRouter(prefix="/v1/compare", responses=ERRORS)
    jobs = Jobs(server)

    @router.post("", status_code=202, response_model=CompareJob)
    async def start(asked: CompareRequest, http: Request) -> Response:
        """Begin a comparison; GET it by its id for progress and results."""
        if bool(asked.questions) == (asked.set is not None):
            raise ApiError(400, "give either questions or the name of a set", param="questions")
        if asked.set is not None:
            found = await sets.get(asked.set, asked.offset, asked.limit)
            asked = asked.model_copy(update={"questions": found})
        texts = [text for question in asked.questions for text in question.texts]
        server.journal.asked(http.state.record, asked.models, texts, attacks=asked.attacks)
        return await jobs.start(asked, _caller(http)).shown(202)

    @router.get("/{id_}", response_model=CompareJob)
    async def get(id_: str, http: Request) -> Response:
        return await jobs.get(id_, _caller(http)).shown()

    @router.get("/{id_}/table")
    async def table(id_: str, http: Request, only: Only = "all") -> CompareTable:
        """A row for each question that is done, with its verdicts."""
        return jobs.get(id_, _caller(http)).table(only)

    @router.get("/{id_}/questions/{index}")
    async def question(id_: str, index: int, http: Request) -> AskedQuestion:
        """One question as it was asked, with all that was measured of its answers."""
        return jobs.get(id_, _caller(http)).question(index)

    @router.delete("/{id_}", response_model=CompareJob)
    async def cancel(id_: str, http: Request) -> Response:
        job = jobs.get(id_, _caller(http))
        jobs.cancel(job)
        return await job.shown()

    return router


def _caller(http: Request) -> Caller:
    caller: Caller = getattr(http.state, "caller", ANYBODY)
    return caller
