"""Memory that a step on CPUs frees stays with the process for the next one.

glibc gives large blocks back to the system when they are freed, and a step allocates the same ones again: clearing
their pages took more than a quarter of the time that steps spent on the processor.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
FROM_HEAP_BYTES = 2**25  # blocks below it come from the heap; glibc allows no more
KEPT_BYTES = 2**30  # free at the heap's end before anything of it is given back


def keep_freed_memory() -> None:
    """For the whole process. Without effect where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, FROM_HEAP_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
