"""Token statistics by blocks of the vocabulary against the eager form that holds all logits: memory and time.

For the log-probability, for ME's KL to the uniform distribution, and for the KL to a reference: forward and backward
over the output layer, gradients for hidden states and head. The eager forms are lean ones in plain torch (float32
logits, no padding, nothing copied twice), not a published code's. Every case runs in a process of its own, the two
sides by turns. Extra memory is what the process (on a GPU: the allocator) holds at its peak beyond the inputs before
and the gradients after, which both sides must hold.

It would count against us if any memory ratio exceeded 1/6, or `time_ratio`, the largest of the three, 1.35.

JSON keys: memory_ratio_{logp,me,kl}, time_ratio, time_ratio_{logp,me,kl} (medians) with _low and _high,
extra_bytes_{fused,eager}_*, time_{fused,eager}_*_s.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from math import log
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from obliviate.blockwise import token_statistics
from obliviate.head import Head
from obliviate.scoring import Stat, TokenStat

STATS: dict[str, TokenStat] = {"logp": Stat.LOGP, "me": Stat.UNIFORM_KL, "kl": Stat.REFERENCE_KL}
FULL, QUICK = (8 * 512, 2048, 128_256), (8 * 256, 1024, 128_256)  # positions, hidden size, vocabulary
SIDES = ("fused", "eager")


def eager(name: str, hidden_ND: Tensor, labels_N: Tensor, head: Head, reference: tuple[Tensor, Head]) -> Tensor:
    """The statistic [N] from whole logits."""
    if name == "logp":
        return head.logits(hidden_ND).log_softmax(-1).gather(-1, labels_N[:, None])[:, 0]
    if name == "me":
        z_NV = head.logits(hidden_ND)
        return z_NV.logsumexp(-1) - z_NV.mean(-1) - log(z_NV.shape[-1])
    with torch.no_grad():
        logq_NV = reference[1].logits(reference[0]).log_softmax(-1)
    return (logq_NV.exp() * (logq_NV - head.logits(hidden_ND).log_softmax(-1))).sum(-1)


def fused(name: str, hidden_ND: Tensor, labels_N: Tensor, head: Head, reference: tuple[Tensor, Head]) -> Tensor:
    stat = STATS[name]
    return token_statistics(hidden_ND, labels_N, head, {stat}, reference)[stat]


def case(name: str, side: str, shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, float]:
    """One forward and backward pass in this process: its time and its extra memory."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run: Callable[..., Tensor] = fused if side == "fused" else eager
    for size in ((64, shape[1], 512), shape):  # a small one first: kernels are chosen and loaded
        positions, hidden_size, vocabulary = size
        torch.manual_seed(0)
        hidden_ND = torch.randn(positions, hidden_size, dtype=dtype, device=device, requires_grad=True)
        scale = hidden_size**-0.5
        weights = [torch.randn(vocabulary, hidden_size, dtype=dtype, device=device).mul_(scale) for _ in range(2)]
        labels_N = torch.randint(vocabulary, (positions,), device=device)
        head, frozen = Head(weights[0].requires_grad_()), Head(weights[1])
        before = _reset_peak(device)
        began_s = time.perf_counter()
        run(name, hidden_ND, labels_N, head, (hidden_ND.detach(), frozen)).mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took_s = time.perf_counter() - began_s
        assert hidden_ND.grad is not None
        assert head.weight_VD.grad is not None
        kept = hidden_ND.grad.nbytes + head.weight_VD.grad.nbytes
        extra = _peak_bytes(device) - before - kept
    return {"extra_bytes": extra, "time_s": took_s}


def _reset_peak(device: torch.device) -> int:
    """Bytes held now; the high-water mark starts again from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 x 256 tokens of hidden size 1024, one round")
    parser.add_argument("--json", action="store_true", help="only the last line; progress goes to standard error")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of head and hidden states"
    )
    parser.add_argument("--case", nargs=2, metavar=("STATISTIC", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = QUICK if arguments.quick else FULL
    if arguments.case:
        print(json.dumps(case(*arguments.case, shape, getattr(torch, arguments.dtype))))
        return
    command = [
        sys.executable,
        __file__,
        "--dtype",
        arguments.dtype,
        *(["--quick"] if arguments.quick else []),
        "--case",
    ]
    found: dict[tuple[str, str], list[dict[str, float]]] = {(name, side): [] for name in STATS for side in SIDES}
    for _ in range(1 if arguments.quick else 3):
        for name, side in found:
            done = subprocess.run([*command, name, side], stdout=subprocess.PIPE, text=True, check=True)
            found[name, side].append(json.loads(done.stdout))
            print(f"{name} {side}: {found[name, side][-1]}", file=sys.stderr)
    print(json.dumps(figures(found)))


def figures(found: dict[tuple[str, str], list[dict[str, float]]]) -> dict[str, float]:
    named: dict[str, float] = {}
    for name in STATS:
        memory = {side: [each["extra_bytes"] for each in found[name, side]] for side in SIDES}
        times = {side: [each["time_s"] for each in found[name, side]] for side in SIDES}
        ratios = [ours / theirs for ours, theirs in zip(times["fused"], times["eager"], strict=True)]
        named[f"memory_ratio_{name}"] = median(memory["fused"]) / median(memory["eager"])
        named[f"time_ratio_{name}"] = median(ratios)
        named[f"time_ratio_{name}_low"], named[f"time_ratio_{name}_high"] = min(ratios), max(ratios)
        for side in SIDES:
            named[f"extra_bytes_{side}_{name}"] = median(memory[side])
            named[f"time_{side}_{name}_s"] = median(times[side])
    named["time_ratio"] = max(named[f"time_ratio_{name}"] for name in STATS)
    return {key: round(value, 4) for key, value in named.items()}


if __name__ == "__main__":
    main()
