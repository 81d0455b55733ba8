import ctypes
import resource
import subprocess
import sys

import pytest

# 64 times 4,096 pages of 4 KiB, in a process of its own: the setting is the process's.
CODE = """
import ctypes, resource, sys
from contextlib import nullcontext
import torch
from obliviate.train.heap import kept_freed_memory
libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of one size
libc.mallopt(-3, 2**20)  # as glibc begins, before it learns larger thresholds

def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with kept_freed_memory() if sys.argv[1] == "keep" else nullcontext():
    torch.zeros(2**22).add_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(64):
        torch.zeros(2**22).add_(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    inside = held()
print(inside - held())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_freed_block_is_taken_again_without_new_pages_and_given_back_in_the_end() -> None:
    faults, given_back = {}, {}
    for mode in ("give back", "keep"):
        command = [sys.executable, "-c", CODE, mode]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        faults[mode], given_back[mode] = map(int, done.stdout.split())
    assert faults["give back"] >= 64 * 2**24 // resource.getpagesize()
    assert faults["keep"] < faults["give back"] / 8  # the heap grows to its size at first
    assert given_back["keep"] >= 2**24 > given_back["give back"]
