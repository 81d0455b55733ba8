"""Request types of OpenAI's interface: completions, chat, responses, and vLLM's tokenize beside them.

Client libraries send their defaults along, also of what this server does not have: such a parameter is taken with the
value that asks for nothing, and with no other. null stands for the default, as with OpenAI.
"""

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from obliviate_serve.api import MAX_ALTERNATIVES, Name, Request, Text

MAX_CHOICES = 128  # continuations of one prompt
MAX_PROMPTS = 256  # in one completions request
MAX_BIASES = 1000

TokenIds = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Hint = Annotated[str, Field(max_length=512)]  # of who asks; nothing depends on it
# Values that ask for nothing.
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[float, Field(ge=1, le=1)]
NoList = Annotated[list[Any], Field(max_length=0)] | None
NoObject = Annotated[dict[str, Any], Field(max_length=0)] | None
NoTool = Literal["none", "auto"] | None


class StreamOptions(Request):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class Asked(Request):
    """What all have in common."""

    model: Name
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)  # 0 is greedy
    top_p: float = Field(default=1.0, gt=0, le=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Hint | None = None  # for the audit log
    safety_identifier: Hint | None = None
    prompt_cache_key: Hint | None = None
    store: Literal[False] | None = None
    metadata: NoObject = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None or _takes_null(cls, key)}


def _takes_null(kind: type[Request], key: str) -> bool:
    """Also true of a key that there isn't, which is then refused by its name."""
    field = kind.model_fields.get(key)
    return field is None or field.annotation is type(None) or type(None) in get_args(field.annotation)


class Sampled(Asked):
    """What completions and chat have in common."""

    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)  # None: other samples each time
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASES)] | None = None
    ignore_eos: bool = False  # vLLM's: an answer goes on behind its end of turn
    # vLLM's others
    repetition_penalty: One = 1.0
    length_penalty: One = 1.0
    top_k: Literal[-1, 0] | None = None
    min_p: Zero = 0.0
    min_tokens: Literal[0] = 0
    use_beam_search: Literal[False] = False
    stop_token_ids: NoList = None
    skip_special_tokens: Literal[True] = True
    spaces_between_special_tokens: Literal[True] = True
    include_stop_str_in_output: Literal[False] = False

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer and are not part of it; empty ones never end anything."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in stop if text)

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        return tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items())


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
    suffix: Literal[""] | None = None
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
    name: str | None = Field(default=None, min_length=1, max_length=200)  # for templates that write it
    # What an answer of this interface has, when it is sent back
    refusal: None = None
    tool_calls: NoList = None
    function_call: None = None
    audio: None = None
    annotations: NoList = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class TextFormat(Request):
    type: Literal["text"]

    @property
    def json_text(self) -> None:
        """The schema that an answer keeps to; none."""


class JsonFormat(Request):
    type: Literal["json_object"]

    @property
    def json_text(self) -> str:
        return '{"type":"object"}'


class Schema(Request):
    name: str = Field(max_length=64)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")  # None: any object
    description: str | None = Field(default=None, max_length=10_000)
    strict: bool | None = None  # an answer always keeps to the schema

    @property
    def json_text(self) -> str:
        return json.dumps(self.schema_ or {"type": "object"})


class SchemaFormat(Request):
    type: Literal["json_schema"]
    json_schema: Schema

    @property
    def json_text(self) -> str:
        return self.json_schema.json_text


class Talk(Request):
    """Messages, and where the answer to them begins. The last two as in vLLM."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    continue_final_message: bool = False  # the last message is the beginning of the answer
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _begins_somewhere(self) -> "Talk":
        continues = self.continue_final_message
        if self.add_generation_prompt is continues:
            raise ValueError("add_generation_prompt and continue_final_message: the answer begins by one of them")
        if continues and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message of the role assistant")
        return self


class ChatRequest(Sampled, Talk):
    max_tokens: int | None = Field(default=None, ge=1)  # None: all that the context has room for
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name of max_tokens
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: NoList = None
    tool_choice: NoTool = None
    parallel_tool_calls: bool | None = None  # without tools it asks for nothing
    functions: NoList = None
    function_call: NoTool = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same: give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class InputPart(Request):
    type: Literal["input_text", "output_text"]
    text: Text
    annotations: NoList = None
    logprobs: list[Any] | None = None  # of an answer that is sent back


class InputMessage(Request):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[InputPart], Field(min_length=1)]
    # Of an answer that is sent back
    id: Hint | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    phase: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class FlatSchemaFormat(Schema):
    type: Literal["json_schema"]


class TextSettings(Request):
    format: Annotated[TextFormat | JsonFormat | FlatSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class NoReasoning(Request):
    effort: Literal["none"] | None = None
    summary: None = None


class ResponsesRequest(Asked):
    input: Text | Annotated[list[InputMessage], Field(min_length=1, max_length=1000)]
    instructions: Text | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)  # None: all that the context has room for
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=1)] | None = None
    text: TextSettings | None = None
    tools: NoList = None
    tool_choice: NoTool = None
    parallel_tool_calls: bool | None = None  # without tools it asks for nothing
    max_tool_calls: int | None = Field(default=None, ge=1)  # likewise
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    background: Literal[False] | None = None
    reasoning: NoReasoning | None = None
    truncation: Literal["disabled"] | None = None

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """(role, text) of each."""
        first = [] if self.instructions is None else [("system", self.instructions)]
        if isinstance(self.input, str):
            return (*first, ("user", self.input))
        return (*first, *((message.role, message.text) for message in self.input))

    @property
    def logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.include or self.top_logprobs else None


class TokenizeText(Request):
    model: Name
    prompt: Text
    add_special_tokens: bool = True
    return_token_strs: Literal[False] | None = None


class TokenizeChat(Talk):
    model: Name
    add_special_tokens: Literal[False] = False  # the template writes its own
    return_token_strs: Literal[False] | None = None


class DetokenizeRequest(Request):
    model: Name
    tokens: TokenIds
