"""What a sweep costs beyond its trials, and what successive halving saves of a grid.

Overhead: eight trials done one after the other by plain calls in this process, against the same eight by
`obliviate sweep` on a Ray that runs already, one trial at a time on the same two cores, report included. Against us:
more than 10 %.

ASHA against the full grid: 36 configurations of 4 methods on a small model trained from scratch on the demo's people.
Both train and measure for real, in folders of their own, with three seeds of training and of the order of trials. The
budget is optimiser steps; the hypervolume is of the measured front. Utility is measured on the retained people alone:
of the world the model has never known anything, and a harmonic mean with it would be noise. Against us: more than 40 %
of the grid's steps, or less than 98 % of its hypervolume.

Parts (--only): overhead, halving (ASHA against the grid).

JSON keys: overhead, asha_budget_fraction, hypervolume_ratio, asha_time_fraction (of seconds, the cost of its signal
included), medians with _low and _high over rounds or seeds; bare_s, sweep_s, ray_start_s, grid_steps, asha_steps.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from _parts import add_only

from obliviate.cluster import ensure_ray
from obliviate.config import FinetuneRun, build
from obliviate.data import FictitiousData
from obliviate.data.rows import write_rows
from obliviate_recipes.events import QUIET
from obliviate_recipes.stage import perform as perform_stages
from obliviate_recipes.stages.measure import Measuring
from obliviate_recipes.sweeps.recipe import Sweep
from obliviate_recipes.sweeps.records import Trial
from obliviate_recipes.sweeps.result import Result
from obliviate_recipes.sweeps.sampler import open_sampler
from obliviate_recipes.sweeps.spec import SweepRun
from obliviate_recipes.sweeps.trial import Shared, perform
from obliviate_recipes.train import FinetuneRecipe

PEOPLE = FictitiousData(people=8, questions_per_person=5, forget_people=2)
CORES = 2
SEEDS = (0, 1, 2)
PARTS = ("halving", "overhead")
GRID = {
    "methods": {
        "npo+gd": {"method.beta": [0.1, 0.2, 0.5]},
        "me+gd": {"method.weight": [0.1, 0.3, 1.0]},
        "ga+gd": {"regularizers.0.weight": [1.0, 2.0, 4.0]},
        "idk+ap": {"regularizers.0.weight": [0.5, 1.0, 2.0]},
    },
    "shared": {"optim.learning_rate": [3.0e-4, 1.0e-3, 3.0e-3]},
}  # 4 methods x 3 x 3
# Many small cuts: one that drops most trials at once also drops those that recover late what they kept.
HALVING = {"type": "asha", "reduction_factor": 1.5}
POINTS = 27
EIGHT = {
    "methods": {"npo+gd": {"method.beta": [0.1, 0.5]}},
    "shared": {"optim.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3]},
}


def base_model(folder: Path) -> Path:
    """A Llama of some 1,000,000 parameters that knows nothing, and a tokenizer of the people's texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    corpus = PEOPLE.load()
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator((f"{row.question} {row.answer}" for row in (*corpus.forget, *corpus.retain)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def model_of(source: Path) -> dict[str, Any]:
    return {"source": str(source), "compute_dtype": "float32", "max_length": 128, "chat_template": "plain"}


def data_in(folder: Path) -> dict[str, Any]:
    """The people that `target` wrote there, without the questions about the world that go with them."""
    return {"type": "files", "eval_limit": 20, **{name: f"{folder}/{name}.jsonl" for name in ("forget", "retain")}}


def target(folder: Path) -> Path:
    """The base model after it has learned all people by heart."""
    corpus = PEOPLE.load()
    write_rows(folder / "forget.jsonl", corpus.forget)
    write_rows(folder / "retain.jsonl", corpus.retain)
    values = {
        "model": model_of(base_model(folder / "base")),
        "data": data_in(folder),
        "optim": {"learning_rate": 3e-3, "epochs": 80, "batch_size": 10, "micro_batch_size": 10},
        "cluster": {"cpus_per_worker": CORES},
        "runs": str(folder / "runs"),
    }
    return Path(FinetuneRecipe(build(FinetuneRun, values, where="finetune")).perform(QUIET).source)


def config(source: Path, runs: Path, **more: Any) -> SweepRun:
    values = {
        "model": model_of(source),
        "data": data_in(runs.parent),
        "optim": {"epochs": 54, "batch_size": 10, "micro_batch_size": 10, "warmup_steps": 0},
        "evaluation": {
            "engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 32},
            "encoder": None, "nli": None, "resamples": 100,
        },
        "runs": str(runs),
        **more,
    }  # fmt: skip
    return build(SweepRun, values, where="benchmark")


def bare(given: SweepRun) -> float:
    """Seconds that the trials take as plain calls, the original's evaluation included."""
    import torch

    torch.set_num_threads(CORES)
    began_s = time.perf_counter()
    corpus = given.data.load()
    measuring = Measuring(corpus, given.evaluation, None, given.runs, within=True)
    perform_stages([measuring.figures("target", given.model)], QUIET)
    shared = Shared(Path(given.runs) / "bare", given, corpus, given.evaluation, given.model, None, CORES)
    sampler = open_sampler(given, ())
    while (point := sampler.propose()) is not None:
        perform(Trial(point, 0), shared, lambda metrics: None)
    return time.perf_counter() - began_s


def overhead(source: Path, folder: Path, rounds: int, epochs: int) -> dict[str, Any]:
    """Rounds alternate; each side's first trial of the first round also pays for imports and caches."""
    sides: dict[str, list[float]] = {"bare": [], "sweep": []}
    for turn in range(rounds):
        for side, seconds in sides.items():
            given = config(
                source, folder / f"{side}-{turn}", space=EIGHT, concurrency=1,
                optim={"epochs": epochs, "batch_size": 10, "micro_batch_size": 10},
                cluster={"cpus_per_worker": CORES},
            )  # fmt: skip
            seconds.append(bare(given) if side == "bare" else timed(given)[1])
            print(f"round {turn}, {side}: {seconds[-1]:.1f} s", file=sys.stderr)
    found = [ours / plain - 1 for plain, ours in zip(sides["bare"], sides["sweep"], strict=True)]
    return {**spread("overhead", found), "bare_s": median(sides["bare"]), "sweep_s": median(sides["sweep"])}


def halving(source: Path, folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    fractions, ratios, times, steps = [], [], [], []
    for seed in seeds:
        shared = {"space": GRID, "seeds": [seed], "concurrency": CORES, "cluster": {"cpus_per_worker": 1}}
        grid, grid_s = timed(config(source, folder / f"grid-{seed}", **shared))
        sampler = {"type": "random", "trials": len(grid.records), "seed": seed}
        halved = {"sampler": sampler, "scheduler": HALVING, "signal": {"points": POINTS}}
        asha, asha_s = timed(config(source, folder / f"asha-{seed}", **shared, **halved))
        assert len(asha.records) == len(grid.records)
        steps.append([sum(record.steps for record in result.records) for result in (grid, asha)])
        fractions.append(steps[-1][1] / steps[-1][0])
        ratios.append(asha.hypervolume / grid.hypervolume)
        times.append(asha_s / grid_s)
        print(
            f"seed {seed}: {fractions[-1]:.3f} of the grid's steps, hypervolume {asha.hypervolume:.4f} of "
            f"{grid.hypervolume:.4f}, {times[-1]:.3f} of its time",
            file=sys.stderr,
        )
    return {
        **spread("asha_budget_fraction", fractions),
        **spread("hypervolume_ratio", ratios),
        **spread("asha_time_fraction", times),
        "grid_steps": [grid for grid, _ in steps],
        "asha_steps": [asha for _, asha in steps],
    }


def timed(given: SweepRun) -> tuple[Result, float]:
    began_s = time.perf_counter()
    return Sweep(given).perform(QUIET), time.perf_counter() - began_s


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: median(values), f"{name}_low": min(values), f"{name}_high": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of overhead, with shorter trials")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    add_only(parser, PARTS)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="of ASHA against the grid")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    began_s = time.perf_counter()
    ensure_ray("local")
    ray_start_s = time.perf_counter() - began_s
    rounds, epochs = (1, 600) if arguments.quick else (3, 1200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = target(folder)
        found |= halving(source, folder, SEEDS[: arguments.seeds]) if "halving" in arguments.only else {}
        found |= overhead(source, folder, rounds, epochs) if "overhead" in arguments.only else {}
    found |= {"ray_start_s": ray_start_s}
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    main()
