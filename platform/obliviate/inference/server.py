"""A hosted model's server: requests at its pace, what they cost, and in which ways it can be asked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from obliviate.endpoint import api_key, client, shown
from obliviate.errors import UserError
from obliviate.schema import HostedSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "model.endpoint"
TRIAL = "The capital of France is Paris."
OF_THE_WAY = {400, 404, 405, 415, 422, 500, 501}  # may be about how it was asked: another way is tried
# vLLM's own keys, against the model's own defaults: others ignore them, or refuse the whole request.
PLAIN = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}


class RefusedError(UserError):
    """This request is not taken, however often it is sent: a filter of content, say. The next one may be."""


@dataclass(frozen=True)
class Way:
    """How a prompt is sent: as chat messages, as token ids, or as their text. `plain`: with more keys than OpenAI's."""

    chat: bool = False
    ids: bool = False
    plain: bool = False
    limit: str = "max_tokens"

    def body(self, tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[int]) -> dict[str, Any]:
        if self.ids:
            return {"prompt": list(prompt)}
        # The server's tokenizer begins a text as this one does.
        begun = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] == list(prompt[:1])
        text = tokenizer.decode(list(prompt[begun:]), skip_special_tokens=False)
        return {"messages": [{"role": "user", "content": text}]} if self.chat else {"prompt": text}


WAYS = (
    Way(ids=True, plain=True),
    Way(ids=True),
    Way(),
    Way(chat=True),
    Way(chat=True, limit="max_completion_tokens"),
)


class Pace:
    """Lets no more than so many through in a minute, evenly."""

    def __init__(
        self,
        per_minute: float | None,
        now_s: Callable[[], float] = monotonic,
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self._gap_s = 0.0 if per_minute is None else 60 / per_minute
        self._now_s, self._pause, self._lock, self._next_s = now_s, pause, Lock(), 0.0

    def wait(self) -> None:
        with self._lock:
            now_s = self._now_s()
            at_s = max(self._next_s, now_s)
            self._next_s = at_s + self._gap_s
        if at_s > now_s:
            self._pause(at_s - now_s)


class Server:
    """Shared by all that is asked of one endpoint in a call of the command, so that budget and pace hold for all of it.

    Raises UserError where the key's variable is missing.
    """

    def __init__(self, spec: HostedSpec) -> None:
        import openai

        self.spec, self._secret = spec, api_key(spec, KEY)
        pace = Pace(spec.requests_per_minute)  # of every attempt, those of the client's own too
        http = openai.DefaultHttpxClient(event_hooks={"request": [lambda _: pace.wait()]})
        self._client = client(spec, self._secret, http_client=http)
        self._lock, self.requests, self.spent = Lock(), 0, 0.0
        self.way: Way | None = None  # once it is known
        self.reading: int | None = None  # which of the engine's READINGS it answers; -1: none
        self.refused: list[str] = []  # what was said of prompts that were not taken

    def post(self, chat: bool, body: dict[str, Any], tokens: int) -> list[Any]:
        """The choices of the answer. `tokens`: of the prompt, for servers that do not count.

        Raises RefusedError for a request that is not taken as it is, UserError where the budget is used up, and where
        no answer comes.
        """
        import openai

        try:
            choices = self._post(chat, body, tokens)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise RefusedError(str(self.told(error))) from error
        except (openai.APIError, ValueError) as error:
            raise self.told(error) from error
        if not choices:
            raise UserError(f"{KEY}: {self._named}: an answer without choices; look at the server's log")
        return choices

    def tried(
        self, bodies: Sequence[tuple[bool, dict[str, Any]]], tokens: int, refused: dict[int, Exception]
    ) -> Iterator[tuple[int, Any]]:
        """Which of the bodies (chat or not, as of `post`) the server takes, and its answer's first choice.

        Raises UserError for what another body would not mend; what it might is put into `refused`, by place.
        """
        import openai

        for place, (chat, body) in enumerate(bodies):
            try:
                choices = self._post(chat, body, tokens)
            except openai.APIStatusError as error:
                if error.status_code not in OF_THE_WAY:
                    raise self.told(error) from error
                refused[place] = error
            except (openai.APIError, ValueError) as error:
                raise self.told(error) from error
            else:
                if choices:
                    yield place, choices[0]

    def untaken(self, refused: Sequence[Exception]) -> UserError:
        """Where none of the bodies was taken: by the refusal that says most."""
        known = [error for error in refused if getattr(error, "status_code", None) != 404] or refused
        if known:
            return self.told(known[0])
        return UserError(
            f"{KEY}.base_url: {self.spec.base_url}: answers, but not as OpenAI's interface does; give the URL that the "
            "server's guide gives to OpenAI's clients (often it ends in /v1)"
        )

    def _post(self, chat: bool, body: dict[str, Any], tokens: int) -> list[Any]:
        self._require_money()
        create: Any = self._client.chat.completions.create if chat else self._client.completions.create
        answer = create(model=self.spec.model, **body)
        self._count(getattr(answer, "usage", None), tokens, body)
        return getattr(answer, "choices", None) or []

    def told(self, error: Exception) -> UserError:
        import openai

        spec, said = self.spec, shown(error, self._secret)
        match error:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                name = spec.api_key_env or "null"
                fix = "export the right key under this name" if spec.api_key_env else "name the key's variable"
                return UserError(f"{KEY}.api_key_env: {name}: {spec.base_url} refuses the key ({said}); {fix}")
            case openai.NotFoundError():
                return UserError(
                    f"{KEY}.model: {spec.model}: {spec.base_url} does not know it ({said}); give the server's own name "
                    "for the model, or mend base_url (often it ends in /v1)"
                )
            case openai.APIConnectionError():
                return UserError(
                    f"{KEY}.base_url: {spec.base_url}: no answer after {spec.retries} retries ({said}); start the "
                    "server, mend the URL, or raise timeout_s"
                )
            case openai.RateLimitError():
                limit = "null" if spec.requests_per_minute is None else f"{spec.requests_per_minute:g}"
                return UserError(
                    f"{KEY}.requests_per_minute: {limit}: {self._named} takes no more for now ({said}); lower it or "
                    "concurrency, and run this again: what was answered is kept"
                )
        return UserError(
            f"{KEY}: {self._named}: {said}; look at the server, and run this again: what was answered is kept"
        )

    @property
    def _named(self) -> str:
        return f"{self.spec.model} at {self.spec.base_url}"

    def _require_money(self) -> None:
        budget = self.spec.budget
        with self._lock:
            if budget is not None and self.spent >= budget:
                raise UserError(
                    f"{KEY}.budget: {budget:g}: is used up, {self.spent:.6g} by {self.requests} requests; raise it, or "
                    "run this again to go on with as much: what was answered is kept"
                )

    def _count(self, usage: Any, tokens: int, body: dict[str, Any]) -> None:
        """By the server's own count; without one a continuation is taken to be as long as it may be."""
        longest = body.get("n", 1) * max(body.get("max_tokens", 0), body.get("max_completion_tokens", 0))
        read = getattr(usage, "prompt_tokens", None)
        written = getattr(usage, "completion_tokens", None)
        read, written = tokens if read is None else read, longest if written is None else written
        with self._lock:
            self.requests += 1
            if (price := self.spec.price_per_million) is not None:
                self.spent += (read * price.prompt + written * price.completion) / 1e6
