"""One stage of a run on a cluster: how long, how many GPU hours, whether it fits, and what limits it."""

from dataclasses import dataclass
from math import ceil

from obliviate_cli.costs import evaluation, training
from obliviate_cli.costs.evaluation import Measuring
from obliviate_cli.costs.hardware import Cluster
from obliviate_cli.costs.training import Training

# What limits a stage -> what to do about it.
CURES = {
    "GPU memory": "more workers, adapters (model.lora), a smaller optim.micro_batch_size, activation_checkpointing",
    "host memory": "fewer runs on a node, or nodes with more memory: the first worker of each reads the whole model",
    "start": "more work for each start: one job for many methods, or a long-lived cluster",
    "load": "faster shared storage, or models on the nodes' own disks (node_cache of a sweep)",
    "reference": "nothing: it is computed once",
    "compute": "more workers, or faster GPUs",
    "communication": "fewer workers, all on one node; a larger optim.micro_batch_size",
    "launch": "a larger optim.micro_batch_size: the GPUs wait for Python",
    "optimizer": "more workers: each updates its own share",
    "export": "faster shared storage: every run writes its model",
    "generate": "more replicas",
    "score": "more replicas",
}


@dataclass(frozen=True)
class Stage:
    title: str
    repeats: int  # of such stages in all
    at_a_time: int
    gpus: float  # of each; trials may share one
    tokens: float  # of each, that a model runs over
    flops: float
    network_bytes: float  # that all its workers send
    memory_bytes: float  # of one GPU
    host_bytes: float  # of one node
    seconds: dict[str, float]  # part -> how long, of each
    limit: str  # a key of CURES

    @property
    def s(self) -> float:
        """One after another, or `at_a_time`."""
        return ceil(self.repeats / self.at_a_time) * sum(self.seconds.values())

    @property
    def gpu_hours(self) -> float:
        return self.repeats * self.gpus * sum(self.seconds.values()) / 3600

    @property
    def fits(self) -> bool:
        return self.limit not in ("GPU memory", "host memory")


def train(
    title: str,
    work: Training,
    cluster: Cluster,
    workers: int,
    repeats: int = 1,
    at_a_time: int = 1,
    share: float = 1.0,
) -> Stage:
    """`share`: of a GPU, that each worker has."""
    cluster = cluster.share(share)
    seconds = training.times(work, cluster, workers, at_a_time, workers * at_a_time * share)
    memory, host = work.memory_bytes(workers), work.host_bytes(workers, cluster, share, at_a_time)
    limit = _limit(seconds, memory, host, cluster)
    return Stage(
        title,
        repeats,
        at_a_time,
        workers * share,
        work.steps * work.step_tokens + work.reference_texts * work.tokens,
        work.flops(workers),
        work.steps * workers * work.moved_bytes(workers),
        memory,
        host,
        seconds,
        training.step(work, cluster, workers).limit if limit == "steps" else limit,
    )


def measure(
    title: str, work: Measuring, cluster: Cluster, repeats: int = 1, at_a_time: int = 1, share: float = 1.0
) -> Stage:
    """`share`: of a GPU, that each replica has."""
    cluster = cluster.share(share)
    seconds = evaluation.times(work, cluster, at_a_time, work.gpus * at_a_time * share)
    memory = work.memory_bytes(cluster)
    limit = _limit(seconds, memory, 0.0, cluster)
    return Stage(
        title, repeats, at_a_time, work.gpus * share, work.tokens, work.flops, 0.0, memory, 0.0, seconds, limit
    )


def _limit(seconds: dict[str, float], memory: float, host: float, cluster: Cluster) -> str:
    if memory > cluster.gpu.memory_bytes:
        return "GPU memory"
    if host > cluster.host_memory_bytes:
        return "host memory"
    return max(seconds, key=lambda part: seconds[part])
