"""Comparisons: a set of questions to several models as a job, with progress. Jobs live as long as the server does."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request

from obliviate_serve.api import ComparedQuestion, CompareJob, CompareRequest
from obliviate_serve.auth import ANYBODY, Caller
from obliviate_serve.errors import ApiError, EngineDiedError, busy
from obliviate_serve.openai import ERRORS
from obliviate_serve.probing import answer, plan
from obliviate_serve.server import Server
from obliviate_serve.sse import error_body

QUESTIONS_AT_ONCE = 4  # of one job
MAX_JOBS_KEPT = 32  # the oldest finished ones give way


@dataclass
class Job:
    request: CompareRequest
    owner: Caller
    id: str = field(default_factory=lambda: f"compare-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    status: Literal["running", "done", "cancelled"] = "running"
    results: dict[int, ComparedQuestion] = field(default_factory=dict)
    task: asyncio.Task[Any] | None = None

    def shown(self) -> CompareJob:
        return CompareJob(
            id=self.id,
            created=self.created,
            status=self.status,
            done=len(self.results),
            total=len(self.request.questions),
            questions=[self.results[i] for i in sorted(self.results)],
        )


class Jobs:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def start(self, request: CompareRequest, owner: Caller) -> Job:
        """Raises ApiError for names that there aren't, and where too many jobs run."""
        for question in request.questions:
            plan(self._server, request, question)
        running = [job for job in self._jobs.values() if job.status == "running"]
        if len(running) >= self._server.spec.limits.compare_jobs:
            raise busy(f"{len(running)} comparisons are running already")
        while len(self._jobs) >= MAX_JOBS_KEPT:
            self._jobs.pop(next(id_ for id_, job in self._jobs.items() if job.status != "running"))
        job = Job(request, owner)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job))
        return job

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
        limit = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for index in range(len(job.request.questions)):
                group.create_task(self._ask(job, index, limit))
        job.status = "done"

    async def _ask(self, job: Job, index: int, limit: asyncio.Semaphore) -> None:
        question = job.request.questions[index]
        async with limit:
            try:
                cases = plan(self._server, job.request, question)
                results = await answer(self._server, job.request, question, cases)
                job.results[index] = ComparedQuestion(index=index, results=results, error=None)
            except (ApiError, EngineDiedError) as error:
                job.results[index] = ComparedQuestion(index=index, results=[], error=error_body(error))


def routes(server: Server) -> APIRouter:
    router = APIRouter(prefix="/v1/compare", responses=ERRORS)
    jobs = Jobs(server)

    @router.post("", status_code=202)
    async def start(asked: CompareRequest, http: Request) -> CompareJob:
        """Begin a comparison; GET it by its id for progress and results."""
        questions = [question.question for question in asked.questions]
        server.journal.asked(http.state.record, asked.models, questions, attacks=asked.attacks)
        return jobs.start(asked, _caller(http)).shown()

    @router.get("/{id_}")
    async def get(id_: str, http: Request) -> CompareJob:
        return jobs.get(id_, _caller(http)).shown()

    @router.delete("/{id_}")
    async def cancel(id_: str, http: Request) -> CompareJob:
        job = jobs.get(id_, _caller(http))
        jobs.cancel(job)
        return job.shown()

    return router


def _caller(http: Request) -> Caller:
    caller: Caller = getattr(http.state, "caller", ANYBODY)
    return caller
