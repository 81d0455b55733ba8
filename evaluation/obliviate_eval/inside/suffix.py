"""A suffix behind every question that anybody can type, searched for by greedy coordinate gradients (GCG).

After Zou et al. 2023 (arXiv:2307.15043, algorithms 1 and 2): the gradient of the loss by what a place of the suffix
holds says which tokens may lower it; of many suffixes with one token exchanged, the best is the next one. The loss is
that of the beginnings of several answers at once, so that the suffix is found on T and tried on V; there the answers
begin with an assent. Suffixes that a tokenizer would read otherwise than they were found are passed over.

Shapes: B texts, K tokens of the suffix, V vocabulary, D hidden size, C candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from obliviate.data.chat import in_common
from obliviate.data.rows import Row
from obliviate.data.text import PART_OF_A_CHARACTER, Encoded, TextEncoder
from obliviate.errors import UserError
from obliviate_eval.formats.base import asked
from obliviate_eval.inside.embedding import begun, control_ids, embedded, losses_B
from obliviate_eval.inside.states import Ids, in_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STARTS = (" !", "!", " x", "x")  # what each token begins as, the first that a tokenizer reads as one; published: "!"
DRAWS = 4  # times the candidates that are wanted: many are read otherwise than they were put together


class Searching(NamedTuple):
    """`tokens` of the suffix; in an iteration `width` candidates, each with one token exchanged for one of the `top`
    that the gradient favours; measured after each of `iterations`. The aim is the first `target_tokens` of each
    answer."""

    tokens: int
    width: int
    top: int
    iterations: tuple[int, ...]
    target_tokens: int
    seed: int


@dataclass(frozen=True)
class Place:
    """A question with a suffix, whose tokens begin at `start`, and the beginning of its answer."""

    text: Encoded
    start: int

    def holding(self, suffix: Ids) -> Encoded:
        ids = self.text.input_ids
        return replace(self.text, input_ids=(*ids[: self.start], *suffix, *ids[self.start + len(suffix) :]))


def places_of(encoder: TextEncoder, rows: Sequence[Row], tokens: int, target_tokens: int) -> list[Place]:
    """Where a suffix of so many tokens stands. Raises UserError where the tokenizer reads none of STARTS as a token."""
    plain = [encoder.encode(*row.saying(row.fact)) for row in rows]
    for start in STARTS:
        texts = [encoder.encode(*asking(row, start * tokens).saying(row.fact)) for row in rows]
        pairs = list(zip(texts, plain, strict=True))
        if all(text.prompt_length == without.prompt_length + tokens for text, without in pairs):
            return [
                Place(begun(text, target_tokens), in_common(without.input_ids, text.input_ids))
                for text, without in pairs
            ]
    raise UserError(
        f"attacks: gcg: the model's tokenizer joins repeated {', '.join(map(repr, STARTS))} behind a question, so that "
        "no suffix can begin as one of them; leave gcg out"
    )


def asking(row: Row, suffix: str) -> Row:
    """The row with the suffix behind its question. Plain texts ask nothing, and stay."""
    return asked(row, question=row.question + suffix) if row.question else row


def suffixes(
    model: "PreTrainedModel", encoder: TextEncoder, rows: Sequence[Row], how: Searching, batch_tokens: int
) -> Iterator[str]:
    """After each iteration, the suffix with the least loss on these rows so far."""
    model.requires_grad_(False)
    places = places_of(encoder, rows, how.tokens, how.target_tokens)
    suffix = places[0].text.input_ids[places[0].start :][: how.tokens]
    allowed_V = spellable(encoder, model.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(how.seed)
    best, least = suffix, float(_losses_C(model, places, [suffix], batch_tokens)[0])
    while True:
        gradient_KV = gradient(model, places, suffix, batch_tokens)
        drawn = exchanged(suffix, gradient_KV, allowed_V, how.top, DRAWS * how.width, generator)
        found = [each for each in drawn if _read(encoder, rows[0], places[0], each)][: how.width]
        if found:
            losses_C = _losses_C(model, places, found, batch_tokens)
            suffix, loss = found[int(losses_C.argmin())], float(losses_C.min())
            best, least = (suffix, loss) if loss < least else (best, least)
        yield encoder.tokenizer.decode(best)


def _read(encoder: TextEncoder, row: Row, place: Place, suffix: Ids) -> bool:
    """Whether who types the suffix is read as it was found."""
    text = encoder.encode(*asking(row, encoder.tokenizer.decode(suffix)).saying(row.fact))
    expected = place.holding(suffix)
    return text.input_ids[: len(expected.input_ids)] == expected.input_ids


def spellable(encoder: TextEncoder, size: int) -> Tensor:
    """Of each number of the vocabulary, whether it is a token that is text: no control token, no part of a letter."""
    tokenizer = encoder.tokenizer
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    no_text = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    allowed = [
        token not in no_text and bool(text) and text.isprintable() and PART_OF_A_CHARACTER not in text
        for token, text in enumerate(texts)
    ]
    return torch.tensor([*allowed, *[False] * (size - len(allowed))][:size])


def gradient(model: "PreTrainedModel", places: Sequence[Place], suffix: Ids, batch_tokens: int) -> Tensor:
    """Of the summed loss by how much of each token each place of the suffix holds, [K, V], up to the embedding's own
    scale."""
    table_VD = model.get_input_embeddings().weight
    used = {token for place in places for token in place.text.input_ids}
    controls = control_ids(len(suffix), table_VD.shape[0], used)
    texts = [place.holding(controls) for place in places]
    own_KD = model.get_input_embeddings()(torch.tensor(suffix, device=table_VD.device))
    at_KD = own_KD.detach().float().requires_grad_(True)
    total_KD = torch.zeros_like(at_KD)
    for batch in in_batches(model, [len(text.input_ids) for text in texts], batch_tokens):
        with torch.enable_grad(), embedded(model, controls, at_KD):
            loss = losses_B(model, [texts[i] for i in batch]).sum()
        total_KD += torch.autograd.grad(loss, at_KD)[0]
    gradient_KV: Tensor = total_KD @ table_VD.detach().float().T
    return gradient_KV


def exchanged(
    suffix: Ids, gradient_KV: Tensor, allowed_V: Tensor, top: int, count: int, generator: torch.Generator
) -> list[Ids]:
    """Candidates, each once: a place at random, and there one of the `top` tokens whose gradient is the lowest."""
    barred_KV = gradient_KV.masked_fill(~allowed_V.to(gradient_KV.device), torch.inf)
    barred_KV[torch.arange(len(suffix)), torch.tensor(suffix)] = torch.inf
    best_KN = barred_KV.topk(min(top, int(allowed_V.sum()) - 1), largest=False).indices.cpu()
    places_C = torch.randint(len(suffix), (count,), generator=generator)
    ranks_C = torch.randint(best_KN.shape[1], (count,), generator=generator)
    changes = dict.fromkeys(zip(places_C.tolist(), best_KN[places_C, ranks_C].tolist(), strict=True))
    return [(*suffix[:place], token, *suffix[place + 1 :]) for place, token in changes]


def _losses_C(
    model: "PreTrainedModel", places: Sequence[Place], candidates: Sequence[Ids], batch_tokens: int
) -> Tensor:
    """Of each candidate, the loss summed over all places."""
    texts = [place.holding(suffix) for suffix in candidates for place in places]
    found = torch.zeros(len(texts), dtype=torch.float64)
    with torch.inference_mode():
        for batch in in_batches(model, [len(text.input_ids) for text in texts], batch_tokens):
            found[list(batch)] = losses_B(model, [texts[i] for i in batch]).double().cpu()
    return found.view(len(candidates), len(places)).sum(1)
