"""Request and response types of the HTTP interface: our probing, and what it has in common with OpenAI's part.

Log-probabilities and entropies are in nats. Unknown keys are refused, as OpenAI's own server does: a parameter that is
silently ignored would change results without a word.
"""

from itertools import chain
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from obliviate.wordings import Kind

MAX_ALTERNATIVES = 20
MAX_MODELS = 16  # asked by one probe
MAX_FACTS = 32  # taught again by one question
MAX_TURNS = 32  # said before one question
MAX_SAMPLES = 16  # of one question, beside the greedy answer

Text = Annotated[str, Field(max_length=1_000_000)]  # characters; how many tokens are allowed is a matter of each model
MAX_CHARACTERS = 20_000
ProbeText = Annotated[str, Field(max_length=MAX_CHARACTERS)]  # a question, an answer or a fact, never a book
FullText = Annotated[ProbeText, Field(min_length=1)]
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
    reference: Name | None = None  # one of `models` that the others are compared with, such as the retain model
    # The true answer's fact is held where it is more than so many times as probable as under the reference.
    factor: float = Field(default=2.0, ge=1, allow_inf_nan=False)


class Turn(Request):
    role: Literal["user", "assistant"]
    content: FullText


class Question(Request):
    """A row of data: `key`, `paraphrased_answer`, `perturbed_answer`, `aliases`, `paraphrased_question`,
    `translations` and `answer_prefix` are as in its files."""

    question: FullText
    answer: FullText | None = None  # the true one
    context: Annotated[list[ProbeText], Field(max_length=MAX_FACTS)] = []  # that the in-context attacks teach again
    system: FullText | None = None  # system prompt in place of the model's own, never of a guardrail's
    history: Annotated[list[Turn], Field(max_length=MAX_TURNS)] = []  # said before the question
    key: Annotated[list[FullText], Field(max_length=32)] = []  # words of the answer that carry its fact
    paraphrased_answer: FullText | None = None  # what the false ones are worded like
    perturbed_answer: Annotated[list[FullText], Field(max_length=32)] = []  # false ones, which tell the key
    aliases: Annotated[list[FullText], Field(max_length=32)] = []  # other ways to say the fact
    paraphrased_question: FullText | None = None
    translations: Annotated[dict[Name, FullText], Field(max_length=32)] = {}  # language -> the question in it
    answer_prefix: ProbeText = ""  # what the answer stands behind, such as "Answer:"

    @property
    def texts(self) -> list[str]:
        """All that the client wrote."""
        one = (self.question, self.answer, self.system, self.paraphrased_answer, self.paraphrased_question)
        many = (self.context, self.key, self.perturbed_answer, self.aliases, self.translations.values())
        turns = (turn.content for turn in self.history)
        return [each for each in chain(one, *many, turns, [self.answer_prefix]) if each]

    @property
    def said_before(self) -> tuple[tuple[str, str], ...]:
        """Role and text of what is said before the question."""
        system = () if self.system is None else (("system", self.system),)
        return (*system, *((turn.role, turn.content) for turn in self.history))


class ProbeRequest(Probing, Question):
    """One question to several models."""

    stream: bool = False  # server-sent events, see ProbeEvent


class Alternative(Response):
    text: str
    logp: float | None


class TokenInfo(Response):
    """`logp`: of this token, None where the model gives NaN; `entropy`: of the distribution it was drawn from; `rank`:
    how many tokens were at least as likely, itself included."""

    text: str
    logp: float | None
    entropy: float | None
    rank: int | None = None
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
    key: list[int] = []  # places of the tokens that write the words of the key
    key_logp: float | None = None  # sum over these
    key_probability: float | None = None  # exp of their mean, as the metric key_probability


class KeyFact(Response):
    text: str
    start: int  # of the true answer's characters
    end: int  # excluded


class Key(Response):
    """Which words of the true answer carry its fact. `source`: they were given, the false answers tell them, or it is
    the words that the question does not have."""

    facts: list[KeyFact]
    source: Literal["given", "false_answers", "guess"]


Verdict = Literal["says", "holds", "gone"]


class Change(Response):
    """A model beside the reference under the same attack. Differences are the model's less the reference's.

    `verdict`: an answer says the fact; the model holds it, more than `factor` times as probable as under the reference;
    or neither. None where the prompt tells the fact, or where it is not said and there is no reference.
    """

    verdict: Verdict | None
    says: bool | None  # None: there is nothing to say that the prompt does not tell
    key_logp: float | None  # of the key's words together, nats; None too where the reference could not be asked
    logp: list[float | None]  # of each token of the true answer; empty where the reference has other tokens
    rank: list[int | None]  # likewise: above 0, more tokens are likelier than it


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
    change: Change | None = None  # with a true answer


class ProbeResponse(Response):
    id: str
    object: Literal["probe"] = "probe"
    created: int
    deterministic: bool  # false: greedy answers may vary with what else the models answered
    reference: str | None
    key: Key | None
    results: list[ProbeResult]  # for each model its attacks, in the order of the request


class RenderRequest(Question):
    models: Annotated[list[Name], Field(min_length=1, max_length=MAX_MODELS), UNIQUE]
    attacks: Annotated[list[Name], Field(min_length=1, max_length=32), UNIQUE] = ["none"]


class ErrorBody(Response):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class RenderedPrompt(Asked):
    """What the model reads, with its template's control tokens; null behind a guardrail, whose words stay hidden."""

    prompt: str | None
    tokens: int | None
    error: ErrorBody | None


class RenderResponse(Response):
    object: Literal["list"] = "list"
    data: list[RenderedPrompt]  # for each model its attacks


class ErrorResponse(Response):
    error: ErrorBody


class StartEvent(Response):
    type: Literal["start"] = "start"
    id: str
    deterministic: bool
    reference: str | None = None
    key: Key | None = None
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


class ChangeEvent(Response):
    """Once the case's answers are there, and the reference's true answer."""

    type: Literal["change"] = "change"
    index: int
    change: Change


class ErrorEvent(Response):
    """`index`: the one that failed, while the others go on."""

    type: Literal["error"] = "error"
    index: int
    error: ErrorBody


class DoneEvent(Response):
    type: Literal["done"] = "done"


# Each event is one line `data: {...}`; the stream ends with `data: [DONE]`.
ProbeEvent = StartEvent | TokenEvent | AnswerEvent | TrueAnswerEvent | ChangeEvent | ErrorEvent | DoneEvent


class ServedModel(Response):
    """An entry of GET /v1/models; the first four keys are OpenAI's."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "obliviate"
    kind: Literal["model", "adapter", "alias"]
    root: str | None  # of an adapter its base model, of an alias what it stands for
    on_demand: bool  # loaded when it is asked
    digits: int  # significant ones of its log-probabilities, as far as its dtype and the engines' sums support them
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
    kind: Kind | Literal["own_words"]
    description: str
    needs_context: bool  # only with facts to teach again
    needs: Literal["context", "paraphrased_question", "translations"] | None  # key of the question


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
