"""How much memory a worker has needed."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this worker has held so far: of GPU memory where it trains on one, else of its process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
