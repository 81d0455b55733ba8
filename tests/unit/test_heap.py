"""Memory that training keeps, and gives back."""

import ctypes
import os
import resource
import subprocess
import sys

import pytest

from obliviate.train.heap import ENVIRONMENT

# In a process of its own, because the setting is the process's, and not in its first thread, as Ray trains.
CODE = """
import ctypes, resource, sys, threading
from contextlib import nullcontext
import torch
from obliviate.train.heap import kept_freed_memory
libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of one size
libc.mallopt(-3, 2**20)  # as glibc begins, before it learns larger thresholds

def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def pages_of(count, numbers):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.zeros(numbers).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def train():
    with kept_freed_memory() if sys.argv[1] == "keep" else nullcontext():
        torch.zeros(18 * 2**20).add_(1)
        large, inside = pages_of(40, 18 * 2**20), held()
    given_back = inside - held()
    print(large, given_back, pages_of(32, 2**21))

thread = threading.Thread(target=train)
thread.start()
thread.join()
"""
LARGE_BYTES, SMALL_BYTES = 40 * 72 * 2**20, 32 * 8 * 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_freed_block_is_taken_again_without_new_pages_and_given_back_in_the_end() -> None:
    large, given_back, small = {}, {}, {}
    for mode in ("give back", "keep"):
        command = [sys.executable, "-c", CODE, mode]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
        large[mode], given_back[mode], small[mode] = map(int, done.stdout.split())
    page = resource.getpagesize()
    assert large["give back"] >= LARGE_BYTES // page
    assert large["keep"] < large["give back"] / 4  # the heap grows to its size at first
    assert given_back["keep"] >= 72 * 2**20 > given_back["give back"]
    # Afterwards small blocks are kept, as glibc would have learned to.
    assert small["keep"] < SMALL_BYTES // page / 4
