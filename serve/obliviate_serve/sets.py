"""Sets of questions: those of the config's data, and what a reader brings as a file."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from random import Random

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError

from obliviate.data import DataSpec
from obliviate.data.rows import Row, read_rows
from obliviate.errors import UserError
from obliviate_serve.api import Question
from obliviate_serve.compare_api import MAX_QUESTIONS, QuestionFile, QuestionList, QuestionSet, SetInfo, SetList
from obliviate_serve.errors import ApiError, unavailable
from obliviate_serve.openai import ERRORS
from obliviate_serve.server import Server

FACTS = 3  # kept ones that the in-context attacks tell with each question, as evaluation does
KINDS = (".json", ".jsonl", ".csv", ".tsv")  # of files that are text


class Sets:
    """`data`: None offers no set."""

    def __init__(self, data: DataSpec | None) -> None:
        self._data = data
        self._loading = asyncio.Lock()

    async def all(self) -> Mapping[str, QuestionSet]:
        """By name, read when somebody first asks. Raises ApiError where the data cannot be read any more."""
        async with self._loading:
            try:
                return await asyncio.to_thread(lambda: self._sets)
            except UserError as error:
                raise unavailable(
                    "the questions cannot be read; the server's log says why", reason=str(error)
                ) from error

    async def get(self, name: str, offset: int, limit: int) -> list[Question]:
        """Raises ApiError 404 for a set that there isn't, and 400 for a part of it that holds nothing."""
        sets = await self.all()
        if name not in sets:
            known = ", ".join(sets) or "none"
            raise ApiError(404, f"there is no set of questions {name!r}; known: {known}", param="set", code="not_found")
        found = sets[name].questions[offset : offset + limit]
        if not found:
            total = len(sets[name].questions)
            raise ApiError(400, f"{name} has {total} questions, and none from {offset} on", param="offset")
        return found

    @cached_property
    def _sets(self) -> dict[str, QuestionSet]:
        if self._data is None:
            return {}
        corpus = self._data.load()
        rows = {"forget": corpus.forget, **{each.name: each.rows for each in corpus.evaluation}}
        told = [row.fact for row in corpus.retain if row.question]
        return {name: question_set(name, each, told) for name, each in rows.items() if each}


def question_set(name: str, rows: Sequence[Row], told: Sequence[str] = ()) -> QuestionSet:
    """Of the rows that ask something, and that a probe takes. `told`: facts for the in-context attacks."""
    random, questions = Random(name), []
    for row in rows:
        context = random.sample(told, FACTS) if len(told) >= FACTS else []
        try:
            questions.append(_question(row, context))
        except ValidationError:  # too long, or a plain text, which asks nothing
            continue
    left_out = len(rows) - len(questions)
    return QuestionSet(name=name, total=len(questions), left_out=left_out, questions=questions)


def _question(row: Row, context: Sequence[str]) -> Question:
    return Question.model_validate(
        {
            "question": row.question,
            "answer": row.fact,
            "context": context,
            "system": next((text for role, text in row.history if role == "system"), None),
            "history": [{"role": role, "content": text} for role, text in row.history if role != "system"],
            "key": row.key_facts,
            "paraphrased_answer": row.paraphrased_answer,
            "perturbed_answer": row.perturbed_answers,
            "aliases": row.aliases,
            "paraphrased_question": row.paraphrased_question,
            "translations": dict(row.translations),
            "answer_prefix": row.answer_prefix or "",
        }
    )


def read_file(file: QuestionFile) -> QuestionSet:
    """Raises ApiError, with the line or row, for what is no file of questions and answers."""
    suffix = Path(file.name).suffix.lower()
    if suffix not in KINDS:
        raise ApiError(400, f"{file.name}: give a file of one of the kinds {', '.join(KINDS)}", param="name")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file{suffix}")
        path.write_text(file.text, encoding="utf-8", newline="")
        try:
            found = question_set(file.name, read_rows(path))
        except UserError as error:
            raise ApiError(400, str(error).replace(str(path), file.name), param="text") from error
    if not found.questions:
        raise ApiError(400, f"{file.name}: no row asks a question that a probe takes", param="text")
    return found


def routes(server: Server, sets: Sets) -> APIRouter:
    router = APIRouter(prefix="/v1/questions", responses=ERRORS)

    @router.get("")
    async def listed() -> SetList:
        """The sets of the config's data, without their questions."""
        found = (await sets.all()).values()
        return SetList(data=[SetInfo(name=each.name, total=each.total, left_out=each.left_out) for each in found])

    @router.get("/{name}")
    async def get(
        name: str, offset: int = Query(0, ge=0), limit: int = Query(MAX_QUESTIONS, ge=1, le=MAX_QUESTIONS)
    ) -> QuestionList:
        return QuestionList(data=await sets.get(name, offset, limit))

    @router.post("")
    async def read(file: QuestionFile, http: Request) -> QuestionSet:
        """The questions of a JSON, JSON-lines, CSV or TSV file, as data has them. Nothing of it is kept."""
        server.journal.asked(http.state.record, [], [file.text])
        return await asyncio.to_thread(read_file, file)

    return router
