"""Request and response types of the HTTP interface: OpenAI's completions and chat, and our probing beside them.

Log-probabilities and entropies are in nats. Unknown keys are refused, as OpenAI's own server does: a parameter that is
silently ignored would change results without a word.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from obliviate.wordings import Kind

MAX_ALTERNATIVES = 20
MAX_MODELS = 8  # asked by one probe
MAX_CHOICES = 16  # continuations of one prompt
MAX_PROMPTS = 256  # in one completions request
MAX_QUESTIONS = 1000  # in one comparison

Text = Annotated[str, Field(max_length=1_000_000)]  # characters; how many tokens are allowed is a matter of each model
ProbeText = Annotated[str, Field(max_length=20_000)]  # characters: a question, an answer or a fact, never a book
Name = Annotated[str, Field(min_length=1, max_length=200)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
Zero = Annotated[float, Field(ge=0, le=0)]  # a parameter of OpenAI's that may be given, but only as its neutral value


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


class StreamOptions(Request):
    include_usage: bool = False


class Sampled(Request):
    """What completions and chat have in common."""

    model: Name
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)  # 0 is greedy
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)  # None: other samples each time
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=512)  # for the audit log
    presence_penalty: Zero = 0.0
    frequency_penalty: Zero = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer and are not part of it; empty ones never end anything."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in stop if text)


class CompletionRequest(Sampled):
    prompt: Annotated[
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)],
        Field(union_mode="left_to_right"),
    ]
    # 0 with echo: the prompt alone; None: all that the context has room for
    max_tokens: int | None = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    echo: bool = False
    suffix: None = None
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _something_to_return(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0 and echo is false: nothing would be returned")
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [tuple(prompt)]
        return [each if isinstance(each, str) else tuple(each) for each in prompt]


class TextPart(Request):
    type: Literal["text"]
    text: Text


class Message(Request):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = Field(default=None, max_length=200)

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class TextFormat(Request):
    type: Literal["text"]


class ChatRequest(Sampled):
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: int | None = Field(default=None, ge=1)  # None: all that the context has room for
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name of max_tokens
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    response_format: TextFormat | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class Probing(Request):
    """What /v1/probe and /v1/compare ask of each model under each attack."""

    models: Annotated[list[Name], Field(min_length=1, max_length=MAX_MODELS), UNIQUE]
    attacks: Annotated[list[Name], Field(min_length=1, max_length=32), UNIQUE] = ["none"]  # names of GET /v1/attacks
    samples: int = Field(default=0, ge=0, le=MAX_CHOICES)  # sampled answers beside the greedy one
    temperature: float = Field(default=1.0, gt=0, le=2, allow_inf_nan=False)  # of the sampled answers
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**62)
    max_tokens: int = Field(default=64, ge=1)
    alternatives: int = Field(default=5, ge=0, le=MAX_ALTERNATIVES)  # most likely tokens shown at each position


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
