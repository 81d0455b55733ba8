"""The logit lens: the last layer's is the model's own answer, and the norm before the output layer is found."""

import pytest
import torch

from inside import items, made, states_of
from obliviate.decoder import decoder_layers
from obliviate.errors import UserError
from obliviate_eval.inside.lens import Read, last_norm, lens
from obliviate_eval.inside.patching import depth, span_logp

NORMED = ["llama", "gpt2", "gemma2", "granite", "mamba", "falcon-h1", "modernbert-decoder", "bloom", "opt", "mpt"]


@pytest.mark.parametrize("name", [*NORMED, "opt-350"])
def test_the_last_layers_lens_is_the_models_own_answer(name: str) -> None:
    """Caps, scales and what lies between the last layer and the output layer included."""
    model, asked = made(name), items()
    read = lens(model, asked, states_of(model, asked))
    assert [len(each.by_layer) for each in read] == [len(decoder_layers(model))] * len(asked)
    last = [each.by_layer[-1] for each in read]
    assert last == pytest.approx(span_logp(model, asked, 64), abs=1e-5)


def test_an_earlier_layers_lens_by_hand() -> None:
    model, asked = made("llama"), items()[1:2]
    (states_LPD,) = states_of(model, asked)
    with torch.no_grad():
        logp_V = model.lm_head(model.model.norm(states_LPD[0, 0])).log_softmax(-1)
    (read,) = lens(model, asked, [states_LPD])
    token = asked[0].labels[0]
    assert read.by_layer[0] == pytest.approx(float(logp_V[token]), abs=1e-5)
    assert read.rank_LP[0, 0] == 1 + (logp_V > logp_V[token]).sum()


def test_two_modules_before_the_output_layer_are_refused() -> None:
    model = made("llama")
    model.model.norm = torch.nn.Sequential(model.model.norm, torch.nn.Identity())
    last_norm(model)  # one module, whatever is in it
    model.model.register_forward_hook(lambda _, __, out: type(out)(last_hidden_state=2 * out[0]))
    with pytest.raises(UserError, match=r"^model\.source: LlamaForCausalLM: more than one module .*; leave"):
        last_norm(model)


def test_in_top_counts_a_token_once_whatever_the_layer() -> None:
    read = Read(torch.zeros(3, 4), torch.tensor([[9, 4, 7, 5], [1, 8, 5, 9], [2, 3, 6, 9]]))
    assert [read.in_top(k) for k in (1, 3, 4, 5)] == [0.25, 0.5, 0.5, 1.0]


def test_depth_of_the_lens_is_1_for_the_retain_model_and_0_for_the_original() -> None:
    original, retain, asked = made("llama"), made("llama", seed=1), items()
    own, lost = (lens(original, asked, states_of(each, asked)) for each in (original, retain))
    found = [depth(a.by_layer, b.by_layer, b.by_layer) for a, b in zip(own, lost, strict=True)]
    assert {*found} <= {None, 1.0}
    assert 1.0 in found
    assert all(depth(a.by_layer, b.by_layer, a.by_layer) in (None, 0.0) for a, b in zip(own, lost, strict=True))
