"""What a transformers model is made of, as far as families differ: the decoder, what lies between it and the output
layer, what it keeps of a text besides keys and values; and the check that all of it was understood.

Shapes: B texts, T tokens, D hidden size, V vocabulary.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from obliviate.errors import UserError
from obliviate.head import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Kinds of layers that keep keys and values alone, of all tokens or of the last ones.
ATTENTIONS = {"full_attention", "sliding_attention"}
NO_CACHE = {"xlstm"}  # transformers cannot read what it keeps where queries are narrower than values, its default


# What families do to their logits, by the names in their configs.
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
MULTIPLIERS = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")  # Granite, MiniCPM
MULTIPLIED = {"hyperclovax": ("logits_scaling",)}  # where a name means the contrary


def decoder_of(model: "PreTrainedModel") -> nn.Module:
    """The part that reads tokens. Some families call other things a decoder: the output layer, or the whole model."""
    decoder: nn.Module = model.get_decoder()
    if decoder is model or decoder is model.get_output_embeddings():
        decoder = model.model
    return decoder


def head_of(model: "PreTrainedModel") -> Head:
    """The output layer as scoring needs it, with the scalings that some families apply to their logits."""
    layer = model.get_output_embeddings()
    config = model.config.get_text_config()
    multiplied = MULTIPLIED.get(config.model_type, ())
    scale = 1.0
    for name in (*MULTIPLIERS, *multiplied):
        scale *= getattr(config, name, None) or 1.0
    for name in DIVISORS:
        scale /= 1.0 if name in multiplied else getattr(config, name, None) or 1.0
    caps = (getattr(config, name, None) for name in CAPS)
    return Head(layer.weight, getattr(layer, "bias", None), scale, next((cap for cap in caps if cap is not None), None))


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of transformer blocks, below any wrapper. Raises UserError for an architecture that has none."""
    for module in model.modules():
        if hasattr(module, "get_output_embeddings"):
            whole: Any = module
            decoder = decoder_of(whole)
            count = whole.config.get_text_config().num_hidden_layers
            lists = [each for each in (*decoder.children(), *decoder.modules()) if isinstance(each, nn.ModuleList)]
            if lists:
                return next((each for each in lists if len(each) == count), max(lists, key=len))
            break
    raise UserError(f"model.source: {type(model).__name__} has no list of transformer blocks")


def final_hidden(model: "PreTrainedModel", hidden_BTD: Tensor) -> Tensor:
    """What the output layer is given of the decoder's output: in some families (ModernBERT) not the same."""
    between = getattr(model, "lm_head", None)
    if between is None or between is model.get_output_embeddings() or len(list(between.children())) == 0:
        return hidden_BTD
    states_BTD: Tensor = between(hidden_BTD)
    return states_BTD


def keeps_state(model: "PreTrainedModel") -> bool:
    """Whether it keeps of a text what can be neither padded nor shared: a recurrent state, attention in chunks, or
    (GPT-1) nothing at all."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    keys = "past_key_values" in inspect.signature(type(decoder_of(model)).forward).parameters
    return bool(getattr(model, "_is_stateful", False)) or not keys or not kinds <= ATTENTIONS


@torch.no_grad()
def require_same_logits(model: "PreTrainedModel", tokens: int = 8) -> Tensor:
    """The model's own logits [1, T, V] of the first T token ids.

    Raises UserError where `head_of` does not make the same of what its decoder puts out.
    """
    ids_1T = torch.arange(tokens, device=model.device)[None]
    seen: list[Tensor] = []
    handle = decoder_of(model).register_forward_hook(lambda _, __, output: seen.append(output[0]))
    own_BTV: Tensor = model(input_ids=ids_1T, use_cache=False).logits.float()
    handle.remove()
    found_BTV = head_of(model).logits(final_hidden(model, seen[0])) if seen else own_BTV.new_empty(0)
    # Of the largest, which caps move most. Of one hidden state: only the logits themselves are rounded.
    tolerance = float(own_BTV.nan_to_num().abs().max()) * (1e-3 if exact(model) else 0.02)
    if found_BTV.shape != own_BTV.shape or not torch.allclose(
        found_BTV, own_BTV, rtol=0, atol=tolerance, equal_nan=True
    ):
        raise UserError(refusal(model))
    return own_BTV


def exact(model: "PreTrainedModel") -> bool:
    """Whether it reckons in float32."""
    return bool(model.get_output_embeddings().weight.dtype == torch.float32)


def refusal(model: "PreTrainedModel") -> str:
    return (
        f"model.source: {type(model).__name__} (model_type {model.config.model_type}): what Obliviate reads of it are "
        "not its own logits, so training and figures would be wrong; give a model of a family in docs/models.md"
    )
