"""Where things of all runs lie, and what changes how fast texts are measured but not what is measured."""

from pathlib import Path

from obliviate import storage

# Left out of what determines a stage.
PLACEMENT = {
    "engine": {"replicas", "cpus_per_replica", "gpus_per_replica", "tensor_parallel", "batch_tokens", "chunk_size",
               "gpu_memory_utilization"},
    "judge": {"api_key_env", "concurrency", "retries", "timeout_s"},
    "endpoint": {"api_key_env", "concurrency", "retries", "timeout_s", "requests_per_minute", "price_per_million",
                 "budget"},
}  # fmt: skip


def judged_folder(runs: Path) -> Path:
    """Of what judges behind endpoints have replied, for all runs."""
    return storage.local(runs) / "judged"
