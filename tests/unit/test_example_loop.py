"""The flat loop of examples/ against our own, which is sharded, cut into micro-batches and remembers its reference."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from obliviate.data.refusals import REFUSALS
from obliviate.methods import AP, DPO, GA, GD, IDK, JS, KL, ME, NPO, UNDIAL, JensUn, Mismatch, Term
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from training import FORGET, RETAIN, job, quiet, weights

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "loop.py"))
CASES: dict[str, tuple[Term, ...]] = {
    "npo+gd": (NPO(), GD()),
    "dpo+kl": (DPO(), KL()),
    "idk+ap": (IDK(), AP()),
    "me+gd": (ME(), GD()),
    "undial": (UNDIAL(),),
    "jensun": (JensUn(), JS()),
    "llmu": (GA(), Mismatch(), KL()),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("method", CASES)
def test_it_takes_the_steps_of_our_loop(method: str, tiny: Path, tmp_path: Path) -> None:
    """Four steps: two epochs of eight rows, four at a time."""
    run = replace(job(tiny, tmp_path / "ours", CASES[method]), refusals=REFUSALS)
    losses = EXAMPLE["unlearn"](
        tiny, FORGET, RETAIN, tmp_path / "theirs", method, epochs=2, batch_size=4, learning_rate=1e-3, max_length=64
    )
    ours = weights(train(run, quiet).causal_lm)
    assert losses == pytest.approx([line["loss"] for line in read_steps(run.directory)], rel=1e-5, abs=1e-5)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    for name, weight in weights(written).items():
        torch.testing.assert_close(weight, ours[name], rtol=1e-5, atol=1e-5)
