"""The engine on plain transformers: runs wherever torch does, and is the yardstick the vLLM engine is held to.

Shapes: B rows of a batch, T tokens, V vocabulary, N answer tokens of a batch.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from obliviate.data.text import Encoded
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.request import context_limit, reject_unscorable, request_seed, room, stop_ids
from obliviate.models import head_of, load_pretrained
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate.scoring import Stat, greedy_matches, token_statistics, wanted_hidden

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HFEngine:
    """`stop_ids` end a turn; the model's own generation defaults (repetition penalty, top-k, ...) are not applied.

    Works for decoder-only models that keep a key-value cache and take position ids.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        spec: EngineSpec,
        stop_ids: Collection[int],
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._batch_tokens = spec.batch_tokens
        self._limit = context_limit(spec, model.config)
        self._head = head_of(model)

    @classmethod
    def open(cls, model: ModelSpec, spec: EngineSpec) -> "HFEngine":
        """Load the model in `spec.dtype`, on the GPU where this process sees one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded, tokenizer = load_pretrained(model, dtype=getattr(torch, spec.dtype), device=device)
        return cls(loaded, tokenizer, spec, stop_ids(model, tokenizer))

    @torch.inference_mode()
    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        reject_unscorable(texts, self._limit)
        scored: dict[int, ScoredText] = {}
        for batch in _batches([len(text.input_ids) for text in texts], self._batch_tokens):
            scored |= zip(batch, self._score_batch([texts[i] for i in batch]), strict=True)
        return [scored[i] for i in range(len(texts))]

    def _score_batch(self, texts: Sequence[Encoded]) -> Iterator[ScoredText]:
        ids_BT, mask_BT = self._pad([text.input_ids for text in texts], left=False)
        prompt_B1 = torch.tensor([[text.prompt_length] for text in texts], device=ids_BT.device)
        answer_BT = mask_BT & (torch.arange(ids_BT.shape[1], device=ids_BT.device) >= prompt_B1)
        decoder = self._model.get_decoder()
        hidden_BTD = decoder(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        hidden_ND, labels_N = wanted_hidden(hidden_BTD, answer_BT), ids_BT[answer_BT]
        logp_N = token_statistics(hidden_ND, labels_N, self._head, {Stat.LOGP})[Stat.LOGP]
        greedy_N = greedy_matches(hidden_ND, labels_N, self._head)
        lengths = [len(text.answer_ids) for text in texts]
        for logp, greedy in zip(torch.split(logp_N, lengths), torch.split(greedy_N, lengths), strict=True):
            yield ScoredText(tuple(logp.tolist()), tuple(greedy.tolist()))

    @torch.inference_mode()
    def generate(self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec) -> list[list[Generation]]:
        repeats = sampling.samples if sampling.temperature > 0 else 1  # greedy samples are all the same
        rows = [
            [
                _Row(p, room(len(p), sampling, self._limit), Random(request_seed(p, sampling.seed) + i))
                for i in range(repeats)
            ]
            for p in prompts
        ]
        work = sorted((row for group in rows for row in group if row.room), key=lambda row: -len(row.prompt))
        for batch in _batches([len(row.prompt) + row.room for row in work], self._batch_tokens):
            self._decode([work[i] for i in batch], sampling)
        done = [[self._generation(row) for row in group] for group in rows]
        return [group * (sampling.samples // repeats) for group in done]

    def _decode(self, rows: "list[_Row]", sampling: GenerationSpec) -> None:
        """One token a step for every row; a row that ends leaves the batch, so that the tail costs what it must."""
        ids_BT, mask_BT = self._pad([row.prompt for row in rows], left=True)
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        while rows:
            logits_BV = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            if sampling.temperature == 0:
                next_B = logits_BV.argmax(-1)
            else:
                uniform_B = torch.tensor([row.random.random() for row in rows], device=logits_BV.device)
                next_B = sample(logits_BV, uniform_B, sampling.temperature, sampling.top_p)
            goes_on = [row.take(token, self._stop_ids) for row, token in zip(rows, next_B.tolist(), strict=True)]
            if not all(goes_on):
                keep_B = torch.tensor(goes_on, device=next_B.device).nonzero()[:, 0]
                cache.batch_select_indices(keep_B)
                next_B, mask_BT, positions_BT = next_B[keep_B], mask_BT[keep_B], positions_BT[keep_B]
                rows = [row for row, stays in zip(rows, goes_on, strict=True) if stays]
            ids_BT = next_B[:, None]
            mask_BT = torch.nn.functional.pad(mask_BT, (0, 1), value=True)
            positions_BT = positions_BT[:, -1:] + 1

    def _pad(self, texts: Sequence[tuple[int, ...]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Token ids and the mask of real tokens. The mask is by length: text may hold the padding id itself."""
        width = max(map(len, texts))
        ids_BT = torch.zeros(len(texts), width, dtype=torch.long)
        mask_BT = torch.zeros(len(texts), width, dtype=torch.bool)
        for row, text in enumerate(texts):
            span = slice(width - len(text), width) if left else slice(0, len(text))
            ids_BT[row, span] = torch.tensor(text)
            mask_BT[row, span] = True
        return ids_BT.to(self._model.device), mask_BT.to(self._model.device)

    def _generation(self, row: "_Row") -> Generation:
        text = self._tokenizer.decode(row.token_ids, skip_special_tokens=True)
        return Generation(text, tuple(row.token_ids), row.finished)


@dataclass
class _Row:
    """A continuation under way."""

    prompt: tuple[int, ...]
    room: int
    random: Random
    token_ids: list[int] = field(default_factory=list)
    finished: bool = False

    def take(self, token: int, stop_ids: Collection[int]) -> bool:
        """Whether the row goes on after this token."""
        if token in stop_ids:
            self.finished = True
            return False
        self.token_ids.append(token)
        return len(self.token_ids) < self.room


def sample(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """Invert each row's distribution function at its uniform number in [0, 1): one number a token, so that a row's
    stream of random numbers is its own.

    top_p keeps the smallest set of most likely tokens that holds at least that much (nucleus sampling, Holtzman et al.
    2020, arXiv:1904.09751). A collapsed model's NaN logits count as 0: the uniform distribution where all are NaN.
    """
    z_BV = logits_BV.double().nan_to_num(nan=0.0, posinf=1e38, neginf=-1e38)
    p_BV = (z_BV / temperature).softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        p_BV = p_BV.scatter(-1, order_BV, sorted_BV.masked_fill(before_BV >= top_p, 0.0))
    cumulative_BV = p_BV.cumsum(-1)
    target_B1 = uniform_B.double()[:, None] * cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]


def _batches(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices, the largest first, in groups whose padded size (items x largest) keeps to the budget; one at least."""
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    while order:
        count = max(1, budget // sizes[order[0]])
        yield order[:count]
        order = order[count:]
