"""Optimised embeddings: they stand where they should, leave all else alone, and make what they aim at likelier."""

from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from inside import items, made
from obliviate.data.text import Encoded
from obliviate.inference.hf import HFEngine
from obliviate.schema import EngineSpec, GenerationSpec
from obliviate_eval.inside.embedding import Controlled, behind, control_ids, embedded, optimised

CONTROLS = (382, 381)
TEXTS = [Encoded(item.ids, item.span[0]) for item in items()]


def steps(name: str, batch_tokens: int = 4096) -> Iterator[Tensor]:
    model = made(name)
    return optimised(model, TEXTS, CONTROLS, model.get_input_embeddings().weight[5], 0.01, batch_tokens)


def loss(name: str, vectors_KD: Tensor) -> float:
    """Plain transformers', text by text, from embeddings that are put together by hand."""
    model, total = made(name), 0.0
    table = model.get_input_embeddings()
    with torch.no_grad():
        for text in TEXTS:
            prompt_1TD, answer_1TD = (table(torch.tensor([ids])) for ids in (text.prompt_ids, text.answer_ids))
            whole_1TD = torch.cat([prompt_1TD, vectors_KD[None], answer_1TD], dim=1)
            logp_TV = model(inputs_embeds=whole_1TD).logits[0].log_softmax(-1)
            first = text.prompt_length + len(CONTROLS)
            for place, token in enumerate(text.answer_ids, first):
                total -= float(logp_TV[place - 1, token])
    return total


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_an_engine_sees_the_embeddings_behind_the_prompt(name: str) -> None:
    model = made(name)
    vectors_KD = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    engine = Controlled(HFEngine(model, None, EngineSpec(dtype="float32"), ()), CONTROLS)  # type: ignore[arg-type]
    with embedded(model, CONTROLS, vectors_KD):
        found = engine.score(TEXTS)
    assert -sum(sum(text.logp) for text in found) == pytest.approx(loss(name, vectors_KD), rel=1e-5)
    assert [len(text.logp) for text in found] == [len(text.answer_ids) for text in TEXTS]


def test_other_tokens_and_the_model_behind_the_block_are_as_they_were() -> None:
    model = made("llama")
    ids_BT = torch.tensor([[3, 4, 5], [382, 7, 8]])
    before = model(ids_BT).logits
    with embedded(model, CONTROLS, torch.ones(2, 64)):
        within = model(ids_BT).logits
    assert torch.equal(within[0], before[0])
    assert not torch.allclose(within[1], before[1])
    assert torch.equal(model(ids_BT).logits, before)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_steps_make_the_answers_likelier_and_are_of_one_size(name: str) -> None:
    start_KD = made(name).get_input_embeddings().weight[5].detach().expand(2, -1)
    first_KD, *_, last_KD = islice(steps(name), 20)
    assert (first_KD - start_KD).abs().amax() == pytest.approx(0.01, rel=1e-4)
    assert loss(name, last_KD) < loss(name, first_KD) < loss(name, start_KD)


def test_the_first_step_goes_down_the_gradient() -> None:
    """By finite differences, of the numbers that matter most."""
    start_KD = made("llama").get_input_embeddings().weight[5].detach().expand(2, -1).clone()
    moved_KD = next(steps("llama")) - start_KD
    for control, number in ((0, 3), (1, 17), (1, 40)):
        up_KD, down_KD = start_KD.clone(), start_KD.clone()
        up_KD[control, number] += 1e-2
        down_KD[control, number] -= 1e-2
        slope = loss("llama", up_KD) - loss("llama", down_KD)
        assert torch.sign(moved_KD[control, number]) == -torch.sign(torch.tensor(slope))


def test_batches_change_nothing() -> None:
    one, several = (torch.stack(list(islice(steps("llama", tokens), 3))) for tokens in (4096, 64))
    assert (one != several).float().mean() < 0.02  # a gradient near 0 may change its sign by rounding


def test_control_tokens_are_those_that_no_text_has() -> None:
    assert control_ids(3, 10, {9, 7, 0}) == (8, 6, 5)
    text = behind(Encoded((1, 2, 3, 4), 2), (8, 6))
    assert (text.prompt_ids, text.answer_ids) == ((1, 2, 8, 6), (3, 4))


def test_generation_begins_behind_the_control_tokens() -> None:
    model = made("llama")
    engine = HFEngine(model, _Silent(), EngineSpec(dtype="float32"), ())  # type: ignore[arg-type]
    vectors_KD = model.get_input_embeddings().weight[[20, 21]].detach()
    with embedded(model, CONTROLS, vectors_KD):
        [[found]] = Controlled(engine, CONTROLS).generate([(3, 4)], GenerationSpec(max_new_tokens=2))
    [[plain]] = engine.generate([(3, 4, 20, 21)], GenerationSpec(max_new_tokens=2))
    assert found.token_ids == plain.token_ids


class _Silent:
    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return ""
