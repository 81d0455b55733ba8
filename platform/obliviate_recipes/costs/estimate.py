"""What the stages of a recipe cost on a cluster: how long, how many GPU hours, whether it fits, and what limits it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from obliviate_recipes.costs import evaluation, training
from obliviate_recipes.costs.hardware import Cluster
from obliviate_recipes.costs.work import Measured, Trained, Work

# What limits a part -> what to do about it.
CURES = {
    "GPU memory": "more workers, adapters (model.lora), a smaller optim.micro_batch_size, activation_checkpointing",
    "host memory": "fewer runs on a node, or nodes with more memory: the first worker of each reads the whole model",
    "start": "more work for each start: one job for many methods, or a long-lived cluster",
    "load": "faster shared storage, or models on the nodes' own disks (node_cache of a sweep)",
    "reference": "nothing: it is computed once",
    "measure": "fewer held-out rows, or seldom measured: larger every_steps",
    "compute": "more workers, or faster GPUs",
    "communication": "fewer workers, all on one node; a larger optim.micro_batch_size",
    "launch": "a larger optim.micro_batch_size: the GPUs wait for Python",
    "optimizer": "more workers: each updates its own share",
    "export": "faster shared storage: every run writes its model",
    "generate": "more replicas",
    "score": "more replicas",
}


@dataclass(frozen=True)
class Part:
    title: str
    repeats: int  # of such parts in all
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


def estimate(works: Iterable[Work], cluster: Cluster, at_a_time: int = 1) -> list[Part]:
    """In the order in which they run; those that are alike are one part, `at_a_time` of them together. What is asked of
    hosted models takes no part of the cluster."""
    parts = []
    for work, repeats in Counter(works).items():
        together = min(at_a_time, repeats)
        if isinstance(work, Trained):
            parts.append(trained(work, cluster, repeats, together))
        elif isinstance(work, Measured):
            parts.append(measured(work, cluster, repeats, together))
    return parts


def trained(of: Trained, cluster: Cluster, repeats: int = 1, at_a_time: int = 1) -> Part:
    cluster, work, workers = cluster.share(of.share), of.training, of.workers
    seconds = training.times(work, cluster, workers, at_a_time, workers * at_a_time * of.share)
    memory, host = work.memory_bytes(workers), work.host_bytes(workers, cluster, of.share, at_a_time)
    limit = _limit(seconds, memory, host, cluster)
    return Part(
        of.title,
        repeats,
        at_a_time,
        workers * of.share,
        work.steps * work.step_tokens + (work.reference_texts + work.measured_texts) * work.tokens,
        work.flops(workers),
        work.steps * workers * work.moved_bytes(workers),
        memory,
        host,
        seconds,
        training.step(work, cluster, workers).limit if limit == "steps" else limit,
    )


def measured(of: Measured, cluster: Cluster, repeats: int = 1, at_a_time: int = 1) -> Part:
    cluster, work = cluster.share(of.share), of.measuring
    gpus = work.gpus * of.share
    seconds = evaluation.times(work, cluster, at_a_time, gpus * at_a_time)
    memory = work.memory_bytes(cluster)
    limit = _limit(seconds, memory, 0.0, cluster)
    return Part(of.title, repeats, at_a_time, gpus, work.tokens, work.flops, 0.0, memory, 0.0, seconds, limit)


def _limit(seconds: dict[str, float], memory: float, host: float, cluster: Cluster) -> str:
    if memory > cluster.usable_bytes:
        return "GPU memory"
    if host > cluster.host_memory_bytes:
        return "host memory"
    return max(seconds, key=lambda part: seconds[part])
