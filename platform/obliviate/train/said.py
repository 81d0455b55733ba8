"""What the model that is being trained answers, greedily. The workers share the prompts; each gets all answers."""

from collections.abc import Collection, Mapping, Sequence

import torch

from obliviate.data.text import TextEncoder
from obliviate.train.model import ScoredModel
from obliviate.train.together import everyones, parts_of


def greedy(
    model: ScoredModel,
    encoder: TextEncoder,
    prompts: Mapping[int, Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int],
    *,
    size: int,
    device: torch.device,
) -> dict[int, str]:
    """Of each prompt's number the answer. `size`: prompts at a time. Leaves the model as it was, training or not."""
    if not prompts:
        return {}
    trains, asked = model.training, list(prompts)
    model.eval()
    found: dict[int, str] = {}
    for part in parts_of(len(asked), 1 if model.asked_alone else size):
        numbers = [asked[place] for place in part]
        said = _generate(model, encoder, [prompts[each] for each in numbers], max_new_tokens, stop_ids, device)
        found |= zip(numbers, said, strict=True)
    model.train(trains)
    return everyones(found)


def _generate(
    model: ScoredModel,
    encoder: TextEncoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int],
    device: torch.device,
) -> list[str]:
    length = max(map(len, prompts))
    ids_BT = torch.full((len(prompts), length), encoder.end_of_turn_id, device=device)  # padding is not attended to
    attention_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):  # the answers begin in one column
        ids_BT[row, length - len(prompt) :] = torch.tensor(prompt, device=device)
        attention_BT[row, length - len(prompt) :] = 1
    said_BT = model.say(ids_BT, attention_BT, max_new_tokens, stop_ids)[:, length:]
    return [_answer(encoder, ids, stop_ids) for ids in said_BT.tolist()]


def _answer(encoder: TextEncoder, ids: Sequence[int], stop_ids: Collection[int]) -> str:
    """Without its end and thinking; empty where that did not end."""
    ended = next((place for place, each in enumerate(ids) if each in stop_ids), len(ids))
    text: str = encoder.tokenizer.decode(ids[:ended], skip_special_tokens=True)
    return (encoder.hear(text, ids[:ended]).answer or "").strip()
