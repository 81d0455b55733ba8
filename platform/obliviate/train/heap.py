"""Memory that a step on CPUs frees stays with the process for the next one.

glibc gives large blocks back to the system when they are freed, and a step allocates the same ones again: clearing
their pages took more than a quarter of the time that steps spent on the processor.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = -1
DEFAULT_TRIM_BYTES, DEFAULT_MMAPS = 128 * 1024, 65536


@contextmanager
def kept_freed_memory() -> Iterator[None]:
    """For the whole process, while the block runs; afterwards what is free goes back to the system.

    Blocks of any size come from the heap, of which nothing is given back. Without effect where the C library is not
    glibc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):  # glibc's own
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_BYTES)
        libc.malloc_trim(0)
