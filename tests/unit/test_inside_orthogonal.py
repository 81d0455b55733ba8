"""Orthogonalisation: the direction by hand, what is removed from the states, and what is left alone."""

import pytest
import torch

from inside import items, made
from obliviate.decoder import decoder_layers
from obliviate_eval.inside.orthogonal import Means, directions, means, most_moved, without
from obliviate_eval.inside.patching import span_logp
from obliviate_eval.inside.states import changed, layer_states

TEXTS = [item.ids for item in items()]


def test_a_shift_of_all_states_is_the_direction_and_undone() -> None:
    """A layer that adds the same to all states, as steering does: without it the model is what it was, but for what
    the original itself has along it."""
    model = made("llama")
    shift_D = torch.zeros(64)
    shift_D[3] = 5.0
    original = means(model, TEXTS, 64)
    with changed(model, lambda layer, hidden_BTD: hidden_BTD + shift_D if layer == 1 else None):
        moved = means(model, TEXTS, 64, original)
    found_LD = directions(moved, original)
    assert found_LD[0].abs().max() == 0  # the layer before it did not move
    assert found_LD[1] == pytest.approx(shift_D / 5, abs=1e-5)
    assert most_moved(moved, original) == 1


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_no_state_has_a_part_along_the_direction(name: str) -> None:
    model = made(name)
    torch.manual_seed(1)
    direction_LD = torch.nn.functional.normalize(torch.randn(len(decoder_layers(model)), 64), dim=-1)
    places = [tuple(range(len(text))) for text in TEXTS]
    with without(model, direction_LD):
        states_LND = torch.cat(layer_states(model, TEXTS, places, 64), dim=1)
    # Hooks run in the order in which they came: the states are read as they leave the layer, changed.
    parts_LN = torch.einsum("lnd,ld->ln", states_LND, direction_LD)
    assert parts_LN.abs().max() < 1e-5


def test_the_part_along_the_direction_becomes_the_originals_mean() -> None:
    model = made("llama")
    direction_LD = torch.nn.functional.normalize(torch.ones(2, 64), dim=-1)
    mean_LD = torch.stack([torch.full((64,), 0.5), torch.zeros(64)])  # 0.5 * 64 / 8 = 4 along it
    places = [tuple(range(len(text))) for text in TEXTS]
    everything = Means(mean_LD, torch.ones(1, dtype=torch.bool), torch.full((2,), 1e6))
    with without(model, direction_LD, everything):
        states_LND = torch.cat(layer_states(model, TEXTS, places, 64), dim=1)
    parts_LN = torch.einsum("lnd,ld->ln", states_LND, direction_LD)
    assert (parts_LN - torch.tensor([[4.0], [0.0]])).abs().max() < 1e-4


def test_two_models_that_do_not_differ_give_no_direction_and_are_left_alone() -> None:
    model = made("llama")
    once = means(model, TEXTS, 64)
    nothing_LD = directions(means(model, TEXTS, 64, once), once)
    assert nothing_LD.abs().max() == 0
    before = span_logp(model, items(), 64)
    with without(model, nothing_LD):
        assert span_logp(model, items(), 64) == before


def test_a_token_far_from_all_others_is_left_out_and_left_alone() -> None:
    """One token of a text becomes huge at the last layer."""
    model, (place, number) = made("llama"), (7, 5)

    def swell(layer: int, hidden_BTD: torch.Tensor) -> torch.Tensor | None:
        if layer == 0:
            return None
        hidden_BTD = hidden_BTD.clone()
        hidden_BTD[0, place, number] += 1e4
        return hidden_BTD

    text, direction_LD = TEXTS[2], torch.nn.functional.one_hot(torch.tensor([3, 4]), 64).float()
    with changed(model, swell):
        found = means(model, [text], 64)
        assert (~found.kept_N).nonzero().tolist() == [[place - 1]]  # the first token is not among them
        assert found.mean_LD.abs().max() < 100
        with without(model, direction_LD, found):
            (states_LPD,) = layer_states(model, [text], [(place, place + 1)], 64)
        (before_LPD,) = layer_states(model, [text], [(place, place + 1)], 64)
    assert states_LPD[1, 0, number] > 9e3
    (huge, ordinary), mean = states_LPD[1, :, 4].tolist(), float(found.mean_LD[1, 4])
    assert ordinary == pytest.approx(mean, abs=1e-4)
    assert huge != pytest.approx(mean, abs=1e-2)
    assert float(before_LPD[1, 1, 4]) != pytest.approx(mean, abs=1e-2)


def test_the_layer_that_moved_furthest_goes_by_the_length_of_its_states() -> None:
    original = Means(torch.tensor([[1.0, 0.0], [100.0, 0.0]]), torch.ones(1, dtype=torch.bool), torch.ones(2))
    assert most_moved(original._replace(mean_LD=torch.tensor([[1.5, 0.0], [110.0, 0.0]])), original) == 0
