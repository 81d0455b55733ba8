"""Memory that a step on CPUs frees stays with the process for the next one.

glibc gives large blocks back to the system when they are freed, and a step allocates the same ones again: clearing
their pages took more than a quarter of the time that steps spent on the processor.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# For processes that train in another thread than their first, as Ray's do: without it such a thread has a heap of its
# own, which holds no block above 64 MiB.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
NEVER = -1
# Once a threshold is set glibc learns no more: these are the largest that it would have learned by itself.
LEARNED_TRIM_BYTES, LEARNED_MMAP_BYTES = 2**26, 2**25
DEFAULT_MMAPS = 65536
LIBC = ctypes.CDLL(None)
GLIBC = hasattr(LIBC, "malloc_trim")


@contextmanager
def kept_freed_memory() -> Iterator[None]:
    """For the whole process, while the block runs; afterwards what is free goes back to the system.

    Blocks of any size come from the heap, of which nothing is given back. Without effect where the C library is not
    glibc.
    """
    if not GLIBC:
        yield
        return
    LIBC.mallopt(M_MMAP_MAX, 0)
    LIBC.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        LIBC.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        LIBC.mallopt(M_MMAP_THRESHOLD, LEARNED_MMAP_BYTES)
        LIBC.mallopt(M_TRIM_THRESHOLD, LEARNED_TRIM_BYTES)
        give_back()


def give_back() -> None:
    """What is free goes back to the system, also from between blocks in use."""
    if GLIBC:
        LIBC.malloc_trim(0)
