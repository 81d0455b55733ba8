"""The engine of a hosted model: generated and scored from outside, over any server that speaks OpenAI's interface.

A trial request finds out how the server can be asked; another one, at the first score, whether it gives the
log-probabilities of a text that it did not write itself.
"""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, TypeVar

from obliviate.data.chat import RAW
from obliviate.data.text import Encoded
from obliviate.errors import UserError
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.limits import SAMPLES, reject_unscorable, request_seed, room
from obliviate.inference.server import KEY, PLAIN, TRIAL, WAYS, RefusedError, Server, Way
from obliviate.models import load_tokenizer, stop_ids
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from obliviate.inference.pool import OnChunk, Progress  # which imports Ray: no hosted model needs it

Item = TypeVar("Item")
Result = TypeVar("Result")
TokenScores = list[tuple[float, bool]]  # log-probability, argmax

SEEDS = 2**31  # some servers take no larger ones
WEIGHTS = "needs the model's weights, and a hosted model shows none; leave it out, or measure a model at hand"


def echoed(choice: Any, ids: Sequence[int]) -> TokenScores | None:
    """By `echo`: the prompt's own log-probabilities, and the likeliest tokens beside them; None where there are none,
    or those of other tokens."""
    found = choice.logprobs
    own, likely = (getattr(found, name, None) or [] for name in ("token_logprobs", "top_logprobs"))
    if not len(own) == len(likely) == len(ids) or None in own[1:] or not all(likely[1:]):
        return None
    return [(logp, logp >= max(each.values())) for logp, each in zip(own[1:], likely[1:], strict=True)]


def of_prompt(choice: Any, ids: Sequence[int]) -> TokenScores | None:
    """By vLLM's `prompt_logprobs`, in the same way."""
    found = getattr(choice, "prompt_logprobs", None) or []
    if len(found) != len(ids) or not all(
        str(token) in (each or {}) for token, each in zip(ids[1:], found[1:], strict=True)
    ):
        return None
    scores = [{token: value["logprob"] for token, value in each.items()} for each in found[1:]]
    return [
        (each[str(token)], each[str(token)] >= max(each.values())) for token, each in zip(ids[1:], scores, strict=True)
    ]


# What is asked, and how the answer is read.
READINGS: tuple[tuple[dict[str, Any], Callable[[Any, Sequence[int]], TokenScores | None]], ...] = (
    ({"max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0.0}, echoed),
    ({"max_tokens": 1, "temperature": 0.0, "extra_body": {"prompt_logprobs": 1}}, of_prompt),
)
NO_READING = -1


class EndpointEngine:
    """Satisfies WhiteBox, but refuses what needs weights.

    A generation's token ids are its text's, tokenised again, where the server gives the text alone (vLLM gives them).
    A prompt that the server refuses for good (a filter of content) gets an empty answer, or no scores, and is told of
    in `server.refused`, unless it refuses all of them. Raises UserError where the server takes no trial request.
    """

    def __init__(
        self,
        server: Server,
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Collection[int],
        limit: int,
        *,
        template: str | None = None,
        on_progress: "Progress | None" = None,
    ) -> None:
        """`limit`: tokens of prompt and continuation together; `template`: as of ModelSpec."""
        self._server, self._tokenizer, self._limit, self._on_progress = server, tokenizer, limit, on_progress
        self._stop_ids = frozenset(stop_ids)
        self._plain = {**PLAIN, "stop_token_ids": sorted(stop_ids)}
        self._trial: tuple[int, ...] = tuple(tokenizer(TRIAL).input_ids)
        if server.way is None:
            refused: dict[int, Exception] = {}
            bodies = [(way.chat, self._continuing(way, self._trial, 1, GenerationSpec(), 1)) for way in WAYS]
            place, _ = next(server.tried(bodies, len(self._trial), refused), (None, None))
            if place is None:
                raise server.untaken([error for way, error in refused.items() if not WAYS[way].plain])
            server.way = WAYS[place]
        self._way = server.way
        if self._way.chat and template != RAW:
            raise UserError(
                f"model.chat_template: {template or 'null'}: {server.spec.base_url} takes chat messages alone, and "
                f"lays them out itself; set model.chat_template: {RAW}, and leave model.system_prompt to the server"
            )

    @classmethod
    def open(
        cls, model: ModelSpec, spec: EngineSpec, server: Server, on_progress: "Progress | None" = None
    ) -> "EndpointEngine":
        tokenizer = load_tokenizer(model)
        ends = stop_ids(model, tokenizer)
        limit = spec.max_model_len
        return cls(server, tokenizer, ends, limit, template=model.chat_template, on_progress=on_progress)

    def generate(
        self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec, on_chunk: "OnChunk | None" = None
    ) -> list[list[Generation]]:
        """`on_chunk` gets each answer as it comes."""

        def tokens(_: tuple[int, ...], said: list[Generation]) -> int:
            return sum(len(each.token_ids) for each in said)

        silence = [Generation("", (), False)] * sampling.samples
        return self._each(prompts, lambda prompt: self._said(prompt, sampling), tokens, on_chunk, silence)

    def score(self, texts: Sequence[Encoded], on_chunk: "OnChunk | None" = None) -> list[ScoredText]:
        """A text is without any statistics where the server gives no log-probabilities, or counts other tokens."""
        reject_unscorable(texts, self._limit)
        _ = self.scores  # tried once, not by every thread
        return self._each(texts, self._scored, lambda text, _: len(text.answer_ids), on_chunk, ScoredText((), ()))

    def moments(self, texts: Sequence[Encoded], on_chunk: "OnChunk | None" = None) -> list[ScoredText]:
        raise UserError(f"{KEY}: the whole distribution of each token (moments) {WEIGHTS}")

    def gradient_norms(self, texts: Sequence[Encoded], on_chunk: "OnChunk | None" = None) -> list[float | None]:
        raise UserError(f"{KEY}: a gradient's norm {WEIGHTS}")

    @property
    def scores(self) -> bool:
        """Whether the server gives log-probabilities of any text."""
        if self._server.reading is None:
            self._server.reading = self._tried_reading()
        return self._server.reading != NO_READING

    def _tried_reading(self) -> int:
        """Which of READINGS the server answers."""
        if self._way.chat:
            return NO_READING
        ids = self._trial
        bodies = [(False, {**self._way.body(self._tokenizer, ids), **how}) for how, _ in READINGS]
        for place, choice in self._server.tried(bodies, len(ids), {}):
            if READINGS[place][1](choice, ids) is not None:
                return place
        return NO_READING

    def _scored(self, text: Encoded) -> ScoredText:
        if not self.scores or not text.answer_ids:
            return ScoredText((), ())
        how, read = READINGS[self._server.reading or 0]
        ids = text.input_ids
        [choice, *_] = self._server.post(False, {**self._way.body(self._tokenizer, ids), **how}, len(ids))
        scores = (read(choice, ids) or [])[text.prompt_length - 1 :]
        return ScoredText(tuple(logp for logp, _ in scores), tuple(greedy for _, greedy in scores))

    def _said(self, prompt: tuple[int, ...], sampling: GenerationSpec) -> list[Generation]:
        tokens = room(len(prompt), sampling, self._limit)
        if not tokens:
            return [Generation("", (), False)] * sampling.samples
        repeats = sampling.samples if sampling.temperature > 0 else 1  # greedy samples are all the same
        found: list[Generation] = []
        while len(found) < repeats:  # some servers give fewer at a time than they are asked for
            count = min(SAMPLES, repeats - len(found))
            body = self._continuing(self._way, prompt, tokens, sampling, count)
            if sampling.temperature > 0:
                body["seed"] = (request_seed(prompt, sampling.seed) + len(found)) % SEEDS
            found += map(self._generation, self._server.post(self._way.chat, body, len(prompt)))
        return found[:repeats] * (sampling.samples // repeats)

    def _continuing(
        self, way: Way, prompt: Sequence[int], tokens: int, sampling: GenerationSpec, count: int
    ) -> dict[str, Any]:
        return {
            **way.body(self._tokenizer, prompt),
            way.limit: tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "n": count,
            **({"extra_body": self._plain} if way.plain else {}),
        }

    def _generation(self, choice: Any) -> Generation:
        if (given := getattr(choice, "token_ids", None)) is not None:
            finished = bool(given) and given[-1] in self._stop_ids
            ids = tuple(given[:-1] if finished else given)
            return Generation(self._tokenizer.decode(list(ids), skip_special_tokens=True), ids, finished)
        text = (choice.message.content if self._way.chat else choice.text) or ""
        ids = tuple(self._tokenizer(text, add_special_tokens=False).input_ids)
        return Generation(text, ids, choice.finish_reason == "stop")

    def _each(
        self,
        items: Sequence[Item],
        ask: Callable[[Item], Result],
        tokens_of: Callable[[Item, Result], int],
        on_chunk: "OnChunk | None",
        nothing: Result,
    ) -> list[Result]:
        """The items' answers; `nothing` of those that are refused, where others are taken. Where one fails, those that
        are under way are still waited for: they have been paid."""
        results: dict[int, Result] = {}
        refused: dict[int, RefusedError] = {}
        failed: BaseException | None = None
        tokens = 0
        with ThreadPoolExecutor(self._server.spec.concurrency) as threads:
            places = {threads.submit(ask, item): place for place, item in enumerate(items)}
            try:
                for future in as_completed(places):
                    if future.cancelled():
                        continue
                    if isinstance(error := future.exception(), RefusedError):
                        refused[places[future]] = error
                        continue
                    if error is not None:
                        failed = failed or error
                        for each in places:
                            each.cancel()
                        continue
                    place, result = places[future], future.result()
                    results[place] = result
                    tokens += tokens_of(items[place], result)
                    if on_chunk is not None:
                        on_chunk([place], [result])
                    if self._on_progress is not None:
                        self._on_progress(len(results), len(items), tokens)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        if failed is None and refused and not results:
            failed = next(iter(refused.values()))
        if failed is not None:
            raise failed
        self._server.refused += map(str, refused.values())
        for place in refused:
            results[place] = nothing
            if on_chunk is not None:
                on_chunk([place], [nothing])
        return [results[place] for place in range(len(items))]
