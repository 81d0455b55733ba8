"""The serving engine on plain transformers: one forward pass at a time, requests taking turns token by token.

Its figures are the yardstick for the vLLM engine's. It batches no requests: for throughput use vLLM.
Shapes: B continuations, T tokens, V vocabulary.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from obliviate import attention, mixed
from obliviate.decoder import require_same_logits
from obliviate.inference import grouped_attention
from obliviate.inference.hf import sample
from obliviate.inference.reader import Reader, reader_of
from obliviate.models import load_pretrained, stop_ids
from obliviate.schema import ModelSpec
from obliviate_serve.engine import Delta, Event, Prompted, Sampling, Token
from obliviate_serve.spec import ServingEngineSpec
from obliviate_serve.text import GrowingText


class HFServingEngine:
    """`adapters`: name -> folder of a PEFT adapter."""

    def __init__(self, model: ModelSpec, spec: ServingEngineSpec, adapters: Mapping[str, str]) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded, self.tokenizer = load_pretrained(model, dtype=getattr(torch, spec.dtype), device=device)
        self._stop_ids = stop_ids(model, self.tokenizer)
        positions = getattr(loaded.config.get_text_config(), "max_position_embeddings", spec.max_model_len)
        self._context = min(spec.max_model_len, positions)
        attention.use(loaded, grouped_attention.NAME)
        mixed.allow(loaded, loaded.dtype, device)
        require_same_logits(loaded)
        self._model: Any = _with_adapters(loaded, adapters)
        self._adapted = bool(adapters)
        self._thread = ThreadPoolExecutor(1, "forward")  # one step at a time: waiting requests take turns

    @property
    def context(self) -> int:
        return self._context

    async def stream(
        self, prompt_ids: tuple[int, ...], sampling: Sampling, adapter: str | None
    ) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        steps = self._steps(prompt_ids, sampling, adapter)
        while (events := await loop.run_in_executor(self._thread, next, steps, None)) is not None:
            for event in events:
                yield event

    @property
    def guides(self) -> bool:
        return False

    @property
    def dead(self) -> bool:
        return False

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._model = None

    def _steps(self, prompt_ids: tuple[int, ...], sampling: Sampling, adapter: str | None) -> Iterator[list[Event]]:
        """The events of each forward pass."""
        assert sampling.max_tokens is not None
        reader = reader_of(self._model, self._context)
        ids_BT = torch.tensor([prompt_ids], device=self._model.device)
        logits_BTV = self._forward(ids_BT, reader, adapter, keep=0 if sampling.echo else 1)
        echoed: list[Token] = []
        text = ""
        if sampling.echo:
            told = list(prompt_ids[sampling.echo_from :])
            text = self.tokenizer.decode(told, skip_special_tokens=True)
            if sampling.logprobs is not None:
                if not sampling.echo_from:  # nothing comes before the first, so nothing predicts it
                    echoed.append(Token(self._text(told.pop(0)), None, None, ()))
                echoed += self._tokens(logits_BTV[0, -1 - len(told) : -1], told, sampling)
        yield [Prompted(len(prompt_ids), text, tuple(echoed))]
        if sampling.max_tokens == 0:
            yield [Delta(i, "", 0, (), "length") for i in range(sampling.n)]
            return
        stop_ids = frozenset() if sampling.ignore_eos else self._stop_ids
        seed = Random().getrandbits(62) if sampling.seed is None else sampling.seed
        rows = [
            _Row(i, GrowingText(self.tokenizer, prompt_ids, sampling.stop), Random(seed + i)) for i in range(sampling.n)
        ]
        logits_BV = logits_BTV[:, -1].expand(sampling.n, -1)
        reader.repeat(sampling.n)
        while True:
            next_B = self._choose(logits_BV, rows, sampling)
            statistics = self._tokens(logits_BV, next_B.tolist(), sampling) if sampling.logprobs is not None else []
            yield [
                row.take(token, stop_ids, sampling.max_tokens, tuple(statistics[i : i + 1]))
                for i, (row, token) in enumerate(zip(rows, next_B.tolist(), strict=True))
            ]
            keep = [i for i, row in enumerate(rows) if not row.finished]
            if not keep:
                return
            if len(keep) < len(rows):
                rows = [rows[i] for i in keep]
                keep_B = torch.tensor(keep, device=next_B.device)
                reader.select(keep_B)
                next_B = next_B[keep_B]
            logits_BV = self._forward(next_B[:, None], reader, adapter, keep=1)[:, -1]

    @torch.inference_mode()
    def _forward(self, ids_BT: Tensor, reader: Reader, adapter: str | None, keep: int) -> Tensor:
        """Logits [B, T, V] of the last `keep` positions, 0 for all, in float32."""
        if self._adapted:
            self._model.set_adapter(adapter or BASE)
        return reader(ids_BT, keep).float()

    @staticmethod
    def _choose(logits_BV: Tensor, rows: "list[_Row]", sampling: Sampling) -> Tensor:
        logits_BV = _weighed(logits_BV, rows, sampling)
        if sampling.temperature == 0:
            return logits_BV.argmax(-1)
        uniform_B = torch.tensor([row.random.random() for row in rows], device=logits_BV.device)
        return sample(logits_BV, uniform_B, sampling.temperature, sampling.top_p)

    def _tokens(self, logits_NV: Tensor, ids: list[int], sampling: Sampling) -> list[Token]:
        """What is asked for of the tokens `ids`, each drawn from its row of the logits."""
        logp_NV = logits_NV.log_softmax(-1)
        logps = logp_NV.gather(1, torch.tensor(ids, device=logp_NV.device)[:, None])[:, 0].tolist()
        entropies: list[float | None] = [None] * len(ids)
        if sampling.entropy:
            entropies = torch.special.entr(logp_NV.exp()).sum(-1).tolist()
        top = logp_NV.topk(sampling.logprobs or 0)
        ranks = (logp_NV >= torch.tensor(logps, device=logp_NV.device)[:, None]).sum(-1).tolist()
        return [
            Token(
                self._text(token),
                _number(logp),
                _number(entropy),
                tuple(self._alternatives(likely, logp_of)),
                rank or None,  # NaN is above nothing, itself included
            )
            for token, logp, entropy, likely, logp_of, rank in zip(
                ids, logps, entropies, top.indices.tolist(), top.values.tolist(), ranks, strict=True
            )
        ]

    def _alternatives(self, ids: list[int], logps: list[float]) -> Iterator[tuple[str, float]]:
        for token, logp in zip(ids, logps, strict=True):
            if logp == logp:
                yield self._text(token), logp

    def _text(self, token: int) -> str:
        text: str = self.tokenizer.decode([token])
        return text


BASE = "base"  # name of the adapter that changes nothing


def _with_adapters(model: Any, adapters: Mapping[str, str]) -> Any:
    """The model with all adapters loaded, and an empty one that stands for the base; without any, as it is."""
    if not adapters:
        return model
    from peft import LoraConfig, PeftModel

    names = iter(adapters.items())
    first, folder = next(names)
    adapted = PeftModel.from_pretrained(model, folder, adapter_name=first)
    for name, folder in names:
        adapted.load_adapter(folder, adapter_name=name)
    # LoRA begins as the identity (its second matrix is zero).
    adapted.add_adapter(BASE, LoraConfig(r=1, target_modules=adapted.peft_config[first].target_modules))
    return adapted.eval()


@dataclass
class _Row:
    """A continuation under way."""

    index: int
    text: GrowingText
    random: Random
    length: int = 0
    finished: bool = False
    counts: Counter[int] = field(default_factory=Counter)  # of the answer's tokens

    def take(self, token: int, stop_ids: frozenset[int], limit: int, tokens: tuple[Token, ...]) -> Delta:
        self.length += 1
        self.counts[token] += 1
        if token in stop_ids:
            self.finished = True
            return Delta(self.index, self.text.rest(), 1, tokens, "stop")
        text = self.text.add(token)
        if self.text.stopped:
            self.finished = True
            return Delta(self.index, text, 1, tokens, "stop")
        if self.length == limit:
            self.finished = True
            return Delta(self.index, text + self.text.rest(), 1, tokens, "length")
        return Delta(self.index, text, 1, tokens)


def _weighed(logits_BV: Tensor, rows: Sequence[_Row], sampling: Sampling) -> Tensor:
    """mu_j - c_j frequency - 1[c_j > 0] presence + bias_j, with c_j how often the answer has token j: the formula of
    OpenAI's API reference, "Frequency and presence penalties"."""
    if not (sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias):
        return logits_BV
    weighed_BV = logits_BV.clone()
    for row, weighed_V in zip(rows, weighed_BV, strict=True):
        for token, count in row.counts.items():
            weighed_V[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
    for token, bias in sampling.logit_bias:
        weighed_BV[:, token] += bias
    return weighed_BV


def _number(value: float | None) -> float | None:
    """A collapsed model gives NaN, which JSON has no word for."""
    return None if value is None or value != value else value
