"""Optimised embeddings behind every question (Schwinn et al. 2024, arXiv:2402.09063, the universal attack).

A few control tokens stand between prompt and answer. Their embeddings, which no text could spell, are changed by signed
gradient steps so that the answers to T's questions become likelier; V's questions are then asked with the same ones.
Embeddings that are free can make a model say anything (arXiv:2502.15836): what they are worth shows the retain model.

Shapes: B texts, T tokens, K control tokens, D hidden size, V vocabulary, N target tokens.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from obliviate.blockwise import token_statistics
from obliviate.data.text import Encoded
from obliviate.decoder import decoder_of, final_hidden, head_of
from obliviate.inference.engine import Generation, ScoredText, WhiteBox
from obliviate.inference.reader import pad
from obliviate.schema import GenerationSpec
from obliviate.scoring import Stat
from obliviate_eval.inside.states import Ids, in_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def control_ids(count: int, size: int, used: Collection[int]) -> Ids:
    """Tokens of a vocabulary that no text has: the last such ones, whose own embeddings nobody needs."""
    return tuple(token for token in reversed(range(size)) if token not in used)[:count]


@contextmanager
def embedded(model: "PreTrainedModel", controls: Ids, vectors_KD: Tensor) -> Iterator[None]:
    """While the block runs, the control tokens have these embeddings, through which gradients flow."""
    embedding: Any = model.get_input_embeddings()
    number_V = torch.full((embedding.weight.shape[0],), -1, device=vectors_KD.device)
    number_V[list(controls)] = torch.arange(len(controls), device=vectors_KD.device)

    def put(_: nn.Module, given: tuple[Tensor, ...], output_BTD: Tensor) -> Tensor:
        number_BT = number_V[given[0]]
        own_BTD = vectors_KD.to(output_BTD.dtype)[number_BT.clamp(min=0)]
        return torch.where((number_BT >= 0)[..., None], own_BTD, output_BTD)

    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def behind(text: Encoded, controls: Ids) -> Encoded:
    """The text with the control tokens at the end of its prompt."""
    return replace(
        text,
        input_ids=(*text.prompt_ids, *controls, *text.answer_ids),
        prompt_length=text.prompt_length + len(controls),
    )


@dataclass(frozen=True)
class Controlled:
    """Satisfies WhiteBox: an engine that is asked everything with the control tokens behind the prompt."""

    engine: WhiteBox
    controls: Ids

    def generate(self, prompts: Sequence[Ids], sampling: GenerationSpec) -> list[list[Generation]]:
        return self.engine.generate([(*prompt, *self.controls) for prompt in prompts], sampling)

    def score(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self.engine.score([behind(text, self.controls) for text in texts])

    def moments(self, texts: Sequence[Encoded]) -> list[ScoredText]:
        return self.engine.moments([behind(text, self.controls) for text in texts])

    def gradient_norms(self, texts: Sequence[Encoded]) -> list[float | None]:
        return self.engine.gradient_norms([behind(text, self.controls) for text in texts])


def optimised(
    model: "PreTrainedModel", texts: Sequence[Encoded], controls: Ids, start_D: Tensor, step: float, batch_tokens: int
) -> Iterator[Tensor]:
    """Embeddings of the control tokens, [K, D], after each signed step down the mean negative log-probability of the
    answers' tokens; all begin as `start_D`."""
    model.requires_grad_(False)
    asked = [behind(text, controls) for text in texts]
    vectors_KD = start_D.detach().float().expand(len(controls), -1).clone()
    while True:
        at_KD = vectors_KD.clone().requires_grad_(True)
        gradient_KD = torch.zeros_like(vectors_KD)
        for batch in in_batches(model, [len(text.input_ids) for text in asked], batch_tokens):
            with torch.enable_grad(), embedded(model, controls, at_KD):
                loss = losses_B(model, [asked[i] for i in batch]).sum()
            gradient_KD += torch.autograd.grad(loss, at_KD)[0]
        vectors_KD = vectors_KD - step * gradient_KD.sign()
        yield vectors_KD


def losses_B(model: "PreTrainedModel", texts: Sequence[Encoded]) -> Tensor:
    """Of each text, the negative log-probability of its answer, in nats."""
    ids_BT, mask_BT = pad([text.input_ids for text in texts], model.device, left=False)
    hidden_BTD = decoder_of(model)(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False)[0]
    place_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    ends = torch.tensor([(text.prompt_length, len(text.input_ids)) for text in texts], device=ids_BT.device)
    answer_BT = (place_T >= ends[:, :1]) & (place_T < ends[:, 1:])
    hidden_ND = final_hidden(model, hidden_BTD)[:, :-1][answer_BT[:, 1:]]
    logp_N = token_statistics(hidden_ND, ids_BT[answer_BT], head_of(model), {Stat.LOGP})[Stat.LOGP]
    row_N = answer_BT.nonzero()[:, 0]
    return -torch.zeros(len(texts), dtype=logp_N.dtype, device=logp_N.device).index_add(0, row_N, logp_N)


def begun(text: Encoded, tokens: int) -> Encoded:
    """With the first tokens of its answer alone."""
    return Encoded(text.input_ids[: text.prompt_length + tokens], text.prompt_length)
