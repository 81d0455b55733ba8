"""Unlearning depth: its formula by hand, and the fast reading against one hook, one text and one layer at a time."""

import pytest
import torch
from transformers import PreTrainedModel

from inside import items, made, states_of
from obliviate.decoder import decoder_layers
from obliviate.inference.reader import reads_whole
from obliviate_eval.inside.patching import depth, patched_logp, span_logp
from obliviate_eval.inside.states import Item

NATS = 3e-6


@torch.no_grad()
def one_by_one(model: PreTrainedModel, source: PreTrainedModel, item: Item) -> list[float]:
    ids_1T = torch.tensor([item.ids])
    found = []
    for layer, of_source in zip(decoder_layers(model), decoder_layers(source), strict=True):
        kept = []
        handle = of_source.register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
        source(ids_1T, use_cache=False)
        handle.remove()
        state = kept[0][0] if isinstance(kept[0], tuple) else kept[0]

        def patch(_: object, __: object, out: object, state: torch.Tensor = state) -> object:
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            for place in item.span:
                hidden[0, place - 1] = state[0, place - 1]
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        handle = layer.register_forward_hook(patch)
        logp_TV = model(ids_1T, use_cache=False).logits[0].float().log_softmax(-1)
        handle.remove()
        found.append(float(torch.stack([logp_TV[place - 1, item.ids[place]] for place in item.span]).mean()))
    return found


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("llama", False),
        ("gpt2", False),
        ("qwen3-moe", False),
        ("gemma2", False),  # caps, windows, norms around the blocks
        ("granite", False),
        ("phi3-long", True),  # rotates texts of more than 16 tokens otherwise
        ("mamba", True),
        ("falcon-h1", True),
    ],
)
@pytest.mark.parametrize("batch_tokens", [64, 4096])
def test_the_fast_reading_is_that_of_one_hook_at_a_time(name: str, whole: bool, batch_tokens: int) -> None:
    model, source = made(name), made(name, seed=1)
    assert reads_whole(model, 64) == whole
    asked = items()
    found = patched_logp(model, asked, states_of(source, asked), batch_tokens)
    for item, by_layer in zip(asked, found, strict=True):
        assert by_layer == pytest.approx(one_by_one(model, source, item), rel=0, abs=NATS)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_retain_model_has_depth_1_and_the_original_0(name: str) -> None:
    original, retain = made(name), made(name, seed=1)
    asked = items()
    before = span_logp(original, asked, 64)
    of_retain = patched_logp(original, asked, states_of(retain, asked), 64)
    of_itself = patched_logp(original, asked, states_of(original, asked), 64)
    scored = 0
    for logp, lost, kept in zip(before, of_retain, of_itself, strict=True):
        assert kept == pytest.approx([logp] * len(kept), abs=NATS)
        if (deep := depth([logp] * len(lost), lost, lost)) is not None:
            assert deep == 1
            assert depth([logp] * len(lost), lost, kept) == pytest.approx(0, abs=1e-4)
            scored += 1
    assert scored


def test_depth_by_hand() -> None:
    # D1 = 1.0, 0.5, 0.04 (no layer of the fact), 2.0; D2 = 0.25, 0.75 (more than the retain model), -, -1.0 (better).
    found = depth([-1.0] * 4, [-2.0, -1.5, -1.04, -3.0], [-1.25, -1.75, -9.0, 0.0])
    assert found == pytest.approx((0.25 + 0.5 + 0.0) / 3.5)


def test_a_fact_that_no_layer_lacks_is_unscored() -> None:
    assert depth([-1.0, -1.0], [-1.04, -0.5], [-3.0, -3.0]) is None
    assert depth([-1.0, -1.0], [-1.06, -0.5], [-3.0, -3.0]) == 1


def test_a_collapsed_model_is_unscored() -> None:
    assert depth([-1.0], [-2.0], [float("nan")]) is None
