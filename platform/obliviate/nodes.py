"""What fits on the nodes of a cluster, by Ray's logical resources: arithmetic alone, whoever knows the nodes.

What a cluster can never place would be waited for without end, so it is refused before anything starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf

from obliviate.errors import UserError


@dataclass(frozen=True)
class Nodes:
    """Nodes that are alike."""

    count: float  # at most; inf where nobody says
    cpus: float  # of each
    gpus: float


def places(nodes: Sequence[Nodes], cpus: float, gpus: float) -> float:
    """How many workers fit that each want so many CPUs and GPUs of one node; inf where they want nothing."""
    on_each = [min(_times(each.cpus, cpus), _times_gpus(each.gpus, gpus)) for each in nodes]
    return sum(each.count * k for each, k in zip(nodes, on_each, strict=True) if k) if cpus or gpus else inf


def total(nodes: Sequence[Nodes]) -> dict[str, float]:
    """Of each resource, what all nodes have together."""
    return {
        "CPU": sum(each.count * each.cpus for each in nodes if each.cpus),
        "GPU": sum(each.count * each.gpus for each in nodes if each.gpus),
    }


def check_fits(what: str, count: int, each: Mapping[str, float], nodes: Sequence[Nodes]) -> None:
    """Refuse `count` workers, each with so much of every resource, for which the nodes have no room.

    `what` is the config key that holds `count`. Raises UserError naming it.
    """
    check_total(what, count, each, nodes)
    room = places(nodes, each.get("CPU", 0.0), each.get("GPU", 0.0))
    if count > room:
        asked = " and ".join(f"{amount:g} {resource}s" for resource, amount in each.items() if amount)
        raise UserError(
            f"{what}={count}: asked for {count} x {asked}, each on one node, and the nodes have room for {room:g}: "
            f"lower {what} or what each is given"
        )


def check_total(what: str, count: int, each: Mapping[str, float], nodes: Sequence[Nodes]) -> None:
    """The same where only the sum is known: of replicas of several kinds, say."""
    has = total(nodes)
    for resource, amount in each.items():
        if count * amount > has[resource] + 1e-6:
            raise UserError(
                f"{what}={count}: asked for {count} x {amount:g} {resource}s, the cluster has {has[resource]:g}: "
                f"lower {what} or what each is given"
            )


def _times(has: float, wants: float) -> float:
    return inf if not wants or has == inf else floor(has / wants + 1e-6)


def _times_gpus(has: float, wants: float) -> float:
    """A share of a GPU is of one: three GPUs hold nine times 0.3."""
    return floor(has) * _times(1.0, wants) if 0 < wants < 1 <= has else _times(has, wants)
