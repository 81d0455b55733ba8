"""What a config asks of a cluster in so many words, and whether the cluster can ever give it.

What a config leaves out is decided on the cluster, by what is there. What it asks for and no node has would keep the
job waiting until somebody looks, so it is refused before there is a job.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from obliviate import nodes
from obliviate.schema import ClusterSpec, EngineSpec


@dataclass(frozen=True)
class Need:
    key: str  # of the config, where `count` stands
    count: int
    resources: Mapping[str, float]  # of each; logical ones, as Ray counts them


def needs(config: BaseModel) -> list[Need]:
    """Of every stage that trains or has engines; a sweep trains `concurrency` trials at a time."""
    at_a_time = getattr(config, "concurrency", 1)
    return [need for need in _in("", config, at_a_time) if any(need.resources.values())]


def check_fits(config: BaseModel, on: Sequence[nodes.Nodes]) -> None:
    """`on`: the nodes that the cluster has, or may grow to. Raises UserError for what they have no room for."""
    for need in needs(config):
        nodes.check_fits(need.key, need.count, need.resources, on)


def _in(key: str, value: Any, at_a_time: int) -> Iterator[Need]:
    """Of all specs below `value`, which stands at `key`."""
    if isinstance(value, ClusterSpec):
        each = {"CPU": value.cpus_per_worker or 0.0, "GPU": value.gpus_per_worker or 0.0}
        yield Need("concurrency" if at_a_time > 1 else f"{key}.workers", value.workers * at_a_time, each)
    elif isinstance(value, EngineSpec):
        split = float(value.tensor_parallel) if value.tensor_parallel > 1 else 0.0  # vLLM splits a model over GPUs only
        gpus = split if value.gpus_per_replica is None else value.gpus_per_replica
        yield Need(f"{key}.replicas", value.replicas, {"CPU": value.cpus_per_replica or 0.0, "GPU": gpus})
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _in(f"{key}.{name}" if key else name, getattr(value, name), at_a_time)
