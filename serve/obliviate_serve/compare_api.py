"""Request and response types of comparisons: many questions to many models, and the sets that questions come from."""

from typing import Annotated, Literal

from pydantic import Field

from obliviate_serve.api import (
    ErrorBody,
    Key,
    Name,
    ProbeRequest,
    ProbeResult,
    Probing,
    Question,
    Request,
    Response,
    Verdict,
)

MAX_QUESTIONS = 1000  # in one comparison


class CompareRequest(Probing):
    """Questions of the client's own, or `limit` of a set of the server's from number `offset` on."""

    questions: list[Question] = Field(default=[], max_length=MAX_QUESTIONS)
    set: Name | None = None  # of GET /v1/questions
    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=100, ge=1, le=MAX_QUESTIONS)


class QuestionFile(Request):
    name: Name  # its ending says what kind it is
    text: Annotated[str, Field(min_length=1)]


class SetInfo(Response):
    name: str
    total: int  # questions
    left_out: int  # rows that are no question, or too long for a probe


class QuestionSet(SetInfo):
    questions: list[Question]


class SetList(Response):
    object: Literal["list"] = "list"
    data: list[SetInfo]


class QuestionList(Response):
    object: Literal["list"] = "list"
    data: list[Question]


class ComparedQuestion(Response):
    index: int  # of the request's questions
    key: Key | None = None
    results: list[ProbeResult]
    error: ErrorBody | None  # where it could not be asked


class CompareJob(Response):
    id: str
    object: Literal["compare"] = "compare"
    created: int
    status: Literal["running", "done", "cancelled"]
    done: int  # questions answered by all models
    total: int
    questions: list[ComparedQuestion]  # those that are done, in the order of the request


# Rows of a table: all; where a model other than the reference says or holds the fact; where two models differ in the
# verdict, or, without one, in their words.
Only = Literal["all", "leaks", "differs"]


class Cell(Response):
    """A model under an attack, of a ProbeResult."""

    model: str
    attack: str
    text: str  # the greedy answer
    refusal: bool
    verdict: Verdict | None
    key_logp: float | None  # less the reference's, nats
    key_probability: float | None
    probability: float | None


class TableRow(Response):
    index: int  # of the request's questions
    question: str
    answer: str | None
    key: list[str]
    cells: list[Cell]  # an attack that the question brings nothing for has none
    error: ErrorBody | None


class Tally(Response):
    """Questions by verdict, whatever rows are shown."""

    model: str
    attack: str
    says: int
    holds: int
    gone: int
    unknown: int


class CompareTable(Response):
    id: str
    object: Literal["compare.table"] = "compare.table"
    created: int
    status: Literal["running", "done", "cancelled"]
    done: int
    total: int
    models: list[str]
    reference: str | None
    tallies: list[Tally]
    rows: list[TableRow]  # those that `only` lets through


class AskedQuestion(Response):
    """One question of a comparison, as it was asked, with the whole of its results."""

    request: ProbeRequest
    compared: ComparedQuestion
