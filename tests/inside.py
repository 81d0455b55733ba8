"""What tests of attacks on hidden states share: models of several families, and texts with the places of a fact."""

from random import Random

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from families.zoo import BY_NAME, spread
from obliviate.attention import use
from obliviate.inference.grouped_attention import NAME
from obliviate_eval.inside.states import Item, layer_states


def made(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(BY_NAME[name].model_config, dtype=torch.float32)
    spread(model)
    use(model, NAME)
    return model.eval()


def items() -> list[Item]:
    """Spans of one token, of several, of two pieces, at the text's end, and of the first token that is predicted."""
    random = Random(0)
    texts = [tuple(random.choices(range(3, 380), k=n)) for n in (20, 11, 31, 9, 6)]
    spans = [(13, 14, 15), (10,), (12, 13, 20, 21), (3, 8), (1, 2)]
    return [Item(text, span) for text, span in zip(texts, spans, strict=True)]


def states_of(model: PreTrainedModel, texts: list[Item]) -> list[torch.Tensor]:
    return layer_states(model, [text.ids for text in texts], [text.predicting for text in texts], 64)
