"""Texts packed into one row, shared beginnings once, come out as each does alone: states, statistics, gradients."""

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from obliviate.attention import use
from obliviate.scoring import Activation, Stat
from obliviate.train.model import ScoredModel
from obliviate.train.packing import NAME, Layout, can_pack, pack, packed_attention, unpack

LENGTHS = (3, 9, 1, 6)
OWNED = 3 + 7 + 0 + 2  # the second shares 2 tokens with the first, the fourth 4 with the second, the third all
SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS))


def qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS))


def gemma3() -> PreTrainedModel:
    """One layer looks at 4 tokens alone, one at all."""
    kinds = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **HEADS, sliding_window=4, layer_types=kinds))


def gpt2() -> PreTrainedModel:
    rates = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=32, **rates))


def mamba() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4))


def ready(model: PreTrainedModel) -> PreTrainedModel:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    use(model, NAME)
    return model.train()


def texts() -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and which of them are real."""
    torch.manual_seed(1)
    real_BT = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids_BT = torch.randint(1, 50, real_BT.shape)
    ids_BT[:, :2] = ids_BT[0, :2]
    ids_BT[3, 2:4] = ids_BT[1, 2:4]
    ids_BT[3, 5] = ids_BT[1, 5]  # alike, but after another token
    return ids_BT * real_BT, real_BT


@pytest.mark.parametrize("make", [llama, qwen3, gemma3, gpt2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_text_is_read_as_if_alone(make, checkpointing) -> None:  # type: ignore[no-untyped-def]
    model = ready(make())
    assert can_pack(model)
    ids_BT, real_BT = texts()
    decoder = model.get_decoder()
    alone = [decoder(input_ids=ids_BT[[row], :length])[0][0] for row, length in enumerate(LENGTHS)]
    alone_ND = torch.cat(alone)
    direction_ND = torch.randn_like(alone_ND)
    alone_ND.backward(direction_ND)
    expected = [parameter.grad for parameter in decoder.parameters()]
    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = pack(ids_BT, real_BT)
    packed_1ND = decoder(**inputs, use_cache=False)[0]
    assert packed_1ND.shape[1] == OWNED
    apart_ND = unpack(packed_1ND, inputs["attention_mask"])[real_BT]
    torch.testing.assert_close(apart_ND, alone_ND, rtol=1e-4, atol=1e-5)
    apart_ND.backward(direction_ND)
    for parameter, grad in zip(decoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-3, atol=1e-4)


def test_a_pack_by_hand() -> None:
    ids_BT = torch.tensor([[7, 8], [9, 0], [7, 5]])
    packed = pack(ids_BT, torch.tensor([[True, True], [True, False], [True, True]]))
    assert packed["input_ids"].tolist() == [[7, 8, 9, 5]]
    assert packed["position_ids"].tolist() == [[0, 1, 0, 1]]
    assert packed["attention_mask"].tolist() == [[[[0, 1], [1, 1]]], [[[2, -1], [1, 0]]], [[[0, 3], [0, 1]]]]
    layout = Layout.of(packed["attention_mask"])
    assert layout.owned_BT.tolist() == [[True, True], [True, False], [False, True]]
    assert layout.real_BT.tolist() == [[True, True], [True, False], [True, True]]


def test_padding_is_shared_with_nothing() -> None:
    """A real token may have the padding's id."""
    packed = pack(torch.tensor([[7, 0], [7, 0]]), torch.tensor([[True, False], [True, True]]))
    assert packed["input_ids"].tolist() == [[7, 0]]
    assert Layout.of(packed["attention_mask"]).owned_BT.tolist() == [[True, False], [False, True]]


def test_attention_of_packed_tokens_by_hand() -> None:
    """Equal scores: a token's output is the mean of its own text's values so far."""
    zeros = torch.zeros(1, 1, 4, 1)
    value = torch.tensor([2.0, 4.0, 10.0, 7.0]).reshape(1, 1, 4, 1).requires_grad_()
    ids_BT = torch.tensor([[7, 8], [9, 0], [7, 5]])
    packed = pack(ids_BT, torch.tensor([[True, True], [True, False], [True, True]]))
    out, _ = packed_attention(torch.nn.Module(), zeros, zeros, value, packed["attention_mask"], scaling=1.0)
    assert out.flatten().tolist() == pytest.approx([2.0, 3.0, 10.0, 4.5])
    out.sum().backward()  # the first value counts by itself, and half in each of the tokens behind it
    assert value.grad is not None
    assert value.grad.flatten().tolist() == pytest.approx([2.0, 0.5, 1.0, 0.5])


def test_unpacked_padding_is_0() -> None:
    packed_1ND = torch.tensor([[[1.0], [2.0], [3.0]]])
    mask = pack(torch.tensor([[7, 8], [9, 0]]), torch.tensor([[True, True], [True, False]]))["attention_mask"]
    assert unpack(packed_1ND, mask)[..., 0].tolist() == [[1, 2], [3, 0]]


def test_statistics_are_those_of_padded_texts() -> None:
    model = ScoredModel(ready(llama()))
    ids_BT, real_BT = texts()
    wanted_BT = real_BT.clone()
    wanted_BT[:, 0] = False
    asked = {"forget": (slice(0, 4), wanted_BT, (Stat.LOGP, Stat.ENTROPY, Activation(1)))}
    packed = model(ids_BT, real_BT.long(), asked, {}, {"forget": (slice(0, 4), wanted_BT)})
    model.packs = False
    padded = model(ids_BT, real_BT.long(), asked, {}, {"forget": (slice(0, 4), wanted_BT)})
    assert packed.keys() == padded.keys()
    padded["forget/activation_1"][~real_BT] = 0
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def tokens_read(model: ScoredModel, wanted_BT: Tensor) -> torch.Size:
    ids_BT, real_BT = texts()
    sizes: list[torch.Size] = []
    layer = model.causal_lm.model.layers[0].mlp
    handle = layer.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[:2]))
    model(ids_BT, real_BT.long(), {"forget": (slice(0, 4), wanted_BT, (Stat.LOGP,))}, {})
    handle.remove()
    return sizes[0]


def test_padding_is_read_only_where_it_is_scored() -> None:
    model = ScoredModel(ready(llama()))
    _, real_BT = texts()
    wanted_BT = real_BT.clone()
    wanted_BT[:, 0] = False
    assert tokens_read(model, wanted_BT) == (1, OWNED)
    wanted_BT[0, -1] = True
    assert tokens_read(model, wanted_BT) == (4, max(LENGTHS))


def test_models_that_carry_a_state_along_a_row_are_not_packed() -> None:
    assert not can_pack(ready(mamba()))


def test_attention_other_than_by_scaled_dot_products_is_left_as_it_is() -> None:
    model = llama()
    model.set_attn_implementation("eager")
    use(model, NAME)
    assert model.config._attn_implementation == "eager"
    assert not can_pack(model)
