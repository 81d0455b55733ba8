"""The engine on plain transformers: runs wherever torch does, and is the yardstick the vLLM engine is held to.

Shapes: B rows of a batch, P distinct prompts of a batch, T tokens, V vocabulary, N answer tokens of a batch.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import isfinite
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from obliviate import attention, mixed
from obliviate.blockwise import token_statistics
from obliviate.data.text import Encoded
from obliviate.decoder import decoder_of, final_hidden, head_of, require_same_logits
from obliviate.inference import grouped_attention
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.limits import (
    by_prompt,
    context_limit,
    reject_unscorable,
    request_seed,
    room,
    switch_length,
)
from obliviate.inference.observe import continuation_hidden, observe
from obliviate.inference.reader import SharedReader, batches, pad, positions, reader_of, reads_whole
from obliviate.models import load_pretrained, stop_ids
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate.scoring import Stat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HFEngine:
    """`stop_ids` end a turn; the model's own generation defaults (repetition penalty, top-k, ...) are not applied."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        spec: EngineSpec,
        stop_ids: Collection[int],
    ) -> None:
        self._model = model.eval()
        attention.use(self._model, grouped_attention.NAME)
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._batch_tokens = spec.batch_tokens
        self._limit = context_limit(spec, model.config)
        self._head = head_of(model)
        self._switch = switch_length(model.config)
        self._whole = reads_whole(model, self._limit)

    @classmethod
    def open(cls, model: ModelSpec, spec: EngineSpec) -> "HFEngine":
        """Raises UserError as `opened` does."""
        loaded, tokenizer = opened(model, spec)
        return cls(loaded, tokenizer, spec, stop_ids(model, tokenizer))

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self._score(texts, moments=False)

    def moments(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self._score(texts, moments=True)

    @torch.inference_mode()
    def _score(self, texts: Sequence[Encoded], *, moments: bool) -> list[ScoredText]:
        reject_unscorable(texts, self._limit)
        scored: dict[int, ScoredText] = {}
        sizes = [len(text.input_ids) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: -sizes[i]) if self._whole else by_prompt(texts)
        read = self._read_whole if self._whole else self._read_by_prompt
        for _, alike in groupby(order, key=lambda i: self._switch is not None and sizes[i] > self._switch):
            for batch in batches(list(alike), sizes, self._batch_tokens):
                chosen = [texts[i] for i in batch]
                scored |= zip(batch, self._observe(chosen, read(chosen), moments), strict=True)
        return [scored[i] for i in range(len(texts))]

    def _read_whole(self, texts: Sequence[Encoded]) -> Tensor:
        """The states that predict the answers' tokens, [N, D], of texts that are padded on their right."""
        ids_BT, mask_BT = pad([text.input_ids for text in texts], self._model.device, left=False)
        hidden_BTD = decoder_of(self._model)(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False)[0]
        spans = torch.tensor([(text.prompt_length, len(text.input_ids)) for text in texts], device=ids_BT.device)
        next_T = torch.arange(1, ids_BT.shape[1] + 1, device=ids_BT.device)
        wanted_BT = (next_T >= spans[:, :1]) & (next_T < spans[:, 1:])
        return final_hidden(self._model, hidden_BTD)[wanted_BT]

    def _read_by_prompt(self, texts: Sequence[Encoded]) -> Tensor:
        """As `_read_whole`. A prompt is read once for all of its answers, which then attend to its keys and values."""
        decoder, device = decoder_of(self._model), self._model.device
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(text.prompt_ids for text in texts))}
        prompt_B = torch.tensor([place[text.prompt_ids] for text in texts], device=device)
        lengths = [len(text.answer_ids) for text in texts]
        ids_PT, mask_PT = pad(list(place), self._model.device, left=True)
        cache = DynamicCache(config=self._model.config)
        last_PD = decoder(
            input_ids=ids_PT, attention_mask=mask_PT, position_ids=positions(mask_PT), past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # fmt: skip
        hidden_BTD = last_PD.new_empty(len(texts), 0, last_PD.shape[-1])
        # The last token of an answer predicts nothing that is wanted.
        read_BT, read_mask_BT = pad([text.answer_ids[:-1] for text in texts], self._model.device, left=False)
        if read_BT.shape[1]:
            cache.batch_select_indices(prompt_B)
            mask_BT = torch.cat([mask_PT[prompt_B], read_mask_BT], dim=1)
            hidden_BTD = decoder(
                input_ids=read_BT, attention_mask=mask_BT, past_key_values=cache, use_cache=True,
                position_ids=positions(mask_BT)[:, mask_PT.shape[1] :],
            ).last_hidden_state  # fmt: skip
        hidden_ND = continuation_hidden(last_PD[prompt_B], hidden_BTD, torch.tensor(lengths, device=device))
        return final_hidden(self._model, hidden_ND)

    def _observe(self, texts: Sequence[Encoded], hidden_ND: Tensor, moments: bool) -> Iterator[ScoredText]:
        lengths = [len(text.answer_ids) for text in texts]
        ids = [token for text in texts for token in text.answer_ids]
        labels_N = torch.tensor(ids, dtype=torch.long, device=hidden_ND.device)
        seen = observe(hidden_ND, labels_N, self._head, moments=moments)
        columns = [torch.split(column_N, lengths) for column_N in seen if column_N is not None]
        for tokens in zip(*columns, strict=True):
            yield ScoredText(*(tuple(column.tolist()) for column in tokens))

    def gradient_norms(self, texts: Sequence[Encoded]) -> list[float | None]:
        """One text at a time: the gradient of a batch would be that of its mean."""
        reject_unscorable(texts, self._limit)
        return [self._gradient_norm(text) if text.answer_ids else None for text in texts]

    def _gradient_norm(self, text: Encoded) -> float | None:
        weights = [parameter for parameter in self._model.parameters() if parameter.is_floating_point()]
        for weight in weights:
            weight.requires_grad_(True)
        ids_1T = torch.tensor([text.input_ids], device=self._model.device)
        hidden_TD = final_hidden(self._model, decoder_of(self._model)(input_ids=ids_1T, use_cache=False)[0])[0, :-1]
        labels_N = torch.tensor(text.answer_ids, device=self._model.device)
        scores = token_statistics(hidden_TD[text.prompt_length - 1 :], labels_N, self._head, {Stat.LOGP})
        gradients = torch.autograd.grad(-scores[Stat.LOGP].mean(), weights, allow_unused=True)
        squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
        norm = torch.stack(squares).sum().sqrt().item()
        return norm if isfinite(norm) else None

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
        sizes = [len(row.prompt) + row.room for row in work]
        order = sorted(range(len(work)), key=lambda i: -sizes[i])
        if self._whole:  # texts of one length together
            order.sort(key=lambda i: len(work[i].prompt))
        for _, alike in groupby(order, key=lambda i: self._whole and len(work[i].prompt)):
            for batch in batches(list(alike), sizes, self._batch_tokens):
                self._decode([work[i] for i in batch], sampling)
        done = [[self._generation(row) for row in group] for group in rows]
        return [group * (sampling.samples // repeats) for group in done]

    def _decode(self, rows: "list[_Row]", sampling: GenerationSpec) -> None:
        """One token a step for every row; a row that ends leaves the batch, so that the tail costs what it must."""
        ids_BT, mask_BT = pad([row.prompt for row in rows], self._model.device, left=True)
        reader = reader_of(self._model, self._limit) if self._whole else SharedReader(self._model, mask_BT)
        while rows:
            logits_BV = reader(ids_BT)[:, -1]
            if sampling.temperature == 0:
                next_B = logits_BV.argmax(-1)
            else:
                draws = [row.random.random() for row in rows]
                uniform_B = torch.tensor(draws, dtype=torch.float64, device=logits_BV.device)  # below 1, as drawn
                next_B = sample(logits_BV, uniform_B, sampling.temperature, sampling.top_p)
            goes_on = [row.take(token, self._stop_ids) for row, token in zip(rows, next_B.tolist(), strict=True)]
            if not all(goes_on):
                keep_B = torch.tensor(goes_on, device=next_B.device).nonzero()[:, 0]
                reader.select(keep_B)
                next_B = next_B[keep_B]
                rows = [row for row, stays in zip(rows, goes_on, strict=True) if stays]
            ids_BT = next_B[:, None]

    def _generation(self, row: "_Row") -> Generation:
        text = self._tokenizer.decode(row.token_ids, skip_special_tokens=True)
        return Generation(text, tuple(row.token_ids), row.finished)


def opened(model: ModelSpec, spec: EngineSpec) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A model in `spec.dtype`, on the GPU where this process sees one, and its tokenizer.

    Raises UserError for one whose logits would not be its own.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, tokenizer = load_pretrained(model, dtype=getattr(torch, spec.dtype), device=device)
    mixed.allow(loaded, loaded.dtype, device)
    require_same_logits(loaded)
    attention.use(loaded, grouped_attention.NAME)
    return loaded, tokenizer


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
    found_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
    return found_B.clamp(max=logits_BV.shape[-1] - 1)  # a product that was rounded up to the whole sum
