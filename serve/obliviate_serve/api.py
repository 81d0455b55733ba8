"""Request and response types of the HTTP interface: our probing, and what it has in common with OpenAI's part.

Log-probabilities and entropies are in nats. Unknown keys are refused, as OpenAI's own server does: a parameter that is
silently ignored would change results without a word.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from obliviate.wordings import Kind

MAX_ALTERNATIVES = 20
MAX_MODELS = 8  # asked by one probe
MAX_SAMPLES = 16  # of one question, beside the greedy answer
MAX_QUESTIONS = 1000  # in one comparison

Text = Annotated[str, Field(max_length=1_000_000)]  # characters; how many tokens are allowed is a matter of each model
ProbeText = Annotated[str, Field(max_length=20_000)]  # characters: a question, an answer or a fact, never a book
Name = Annotated[str, Field(min_length=1, max_length=200)]


def _no_name_twice(names: list[str]) -> list[str]:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is named twice")
    return names


UNIQUE = AfterValidator(_no_name_twice)


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Response(BaseModel):
    model_config = ConfigDict(frozen=True)


class Probing(Request):
    """What /v1/probe and /v1/compare ask of each model under each attack."""

    models: Annotated[list[Name], Field(min_length=1, max_length=MAX_MODELS), UNIQUE]
    attacks: Annotated[list[Name], Field(min_length=1, max_length=32), UNIQUE] = ["none"]  # names of GET /v1/attacks
    samples: int = Field(default=0, ge=0, le=MAX_SAMPLES)  # sampled answers beside the greedy one
    temperature: float = Field(default=1.0, gt=0, le=2, allow_inf_nan=False)  # of the sampled answers
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**62)
    max_tokens: int = Field(default=64, ge=1)
    alternatives: int = Field(default=5, ge=0, le=MAX_ALTERNATIVES)  # most likely tokens shown at each position
    # Each answer while its model answers nothing else: the same again each time. Otherwise what is in a batch with it
    # moves the last digits, and now and then a greedy answer.
    deterministic: bool = False


class Question(Request):
    question: Annotated[ProbeText, Field(min_length=1)]
    answer: Annotated[ProbeText, Field(min_length=1)] | None = None  # the true one
    context: Annotated[list[ProbeText], Field(max_length=32)] = []  # facts that the in-context attacks teach again

    @property
    def texts(self) -> list[str]:
        """All that the client wrote."""
        return [self.question, *([] if self.answer is None else [self.answer]), *self.context]


class ProbeRequest(Probing, Question):
    """One question to several models."""

    stream: bool = False  # server-sent events, see ProbeEvent


class CompareRequest(Probing):
    questions: Annotated[list[Question], Field(min_length=1, max_length=MAX_QUESTIONS)]


class Alternative(Response):
    text: str
    logp: float | None


class TokenInfo(Response):
    """`logp`: of this token, None where the model gives NaN; `entropy`: of the distribution it was drawn from."""

    text: str
    logp: float | None
    entropy: float | None
    alternatives: list[Alternative]  # the most likely first


class Answer(Response):
    text: str
    tokens: list[TokenInfo]
    finish_reason: Literal["stop", "length"]
    logp: float | None  # summed over the tokens
    refusal: bool  # says that it doesn't know or won't tell, by its wording
    entailment: str | None  # label of the NLI model: (answer, true answer); None without true answer or NLI model


class TrueAnswer(Response):
    """The true answer's probability as the answer to the question, its end of turn included."""

    text: str
    tokens: list[TokenInfo]
    logp: float | None  # sum
    mean_logp: float | None  # per token
    probability: float | None  # exp(mean_logp): length-normalised, as in TOFU


class Asked(Response):
    """A model under an attack, and what it was sent."""

    model: str  # as asked for
    served_model: str  # what an alias stood for at that moment
    attack: str
    question: str  # as the attack worded it
    prefix: str  # the beginning of the answer that the attack put into the model's mouth; not part of any answer below


class ProbeResult(Asked):
    greedy: Answer
    samples: list[Answer]
    true_answer: TrueAnswer | None


class ProbeResponse(Response):
    id: str
    object: Literal["probe"] = "probe"
    created: int
    deterministic: bool  # false: greedy answers may vary with what else the models answered
    results: list[ProbeResult]  # for each model its attacks, in the order of the request


class ErrorBody(Response):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(Response):
    error: ErrorBody


class StartEvent(Response):
    type: Literal["start"] = "start"
    id: str
    deterministic: bool
    asked: list[Asked]  # an event's `index` counts these


class TokenEvent(Response):
    """A token of a greedy answer. Answers whose tokens were streamed also come whole, as AnswerEvent."""

    type: Literal["token"] = "token"
    index: int
    token: TokenInfo


class AnswerEvent(Response):
    type: Literal["answer"] = "answer"
    index: int
    sample: int | None  # None: the greedy answer
    answer: Answer


class TrueAnswerEvent(Response):
    type: Literal["true_answer"] = "true_answer"
    index: int
    true_answer: TrueAnswer


class ErrorEvent(Response):
    """`index`: the one that failed, while the others go on."""

    type: Literal["error"] = "error"
    index: int
    error: ErrorBody


class DoneEvent(Response):
    type: Literal["done"] = "done"


# Each event is one line `data: {...}`; the stream ends with `data: [DONE]`.
ProbeEvent = StartEvent | TokenEvent | AnswerEvent | TrueAnswerEvent | ErrorEvent | DoneEvent


class ComparedQuestion(Response):
    index: int  # of the request's questions
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


class ServedModel(Response):
    """An entry of GET /v1/models; the first four keys are OpenAI's."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "obliviate"
    kind: Literal["model", "adapter", "alias"]
    root: str | None  # of an adapter its base model, of an alias what it stands for
    on_demand: bool  # loaded when it is asked
    guardrail: str | None = None  # what keeps it from telling what its weights still hold: a guardrail, or its training


class ModelList(Response):
    object: Literal["list"] = "list"
    data: list[ServedModel]


class Tokenized(Response):
    """As vLLM's."""

    count: int
    max_model_len: int  # of prompt and answer together
    tokens: list[int]


class Detokenized(Response):
    prompt: str


class AttackInfo(Response):
    name: str
    kind: Kind
    description: str
    needs_context: bool  # only with facts to teach again


class AttackList(Response):
    object: Literal["list"] = "list"
    data: list[AttackInfo]


class AliasRequest(Request):
    model: Name


class AliasList(Response):
    aliases: dict[str, str]


class Health(Response):
    status: Literal["ok", "loading", "draining"]
    models: dict[str, bool] = {}  # name -> can answer now
