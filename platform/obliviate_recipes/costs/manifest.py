"""The worker groups of a KubeRay manifest, as `kubectl kustomize` prints it: what its autoscaler may bring up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from obliviate.errors import UserError
from obliviate.nodes import Nodes

SPEC_OF = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
GPU = "nvidia.com/gpu"
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class Group:
    """Pods that are alike: `pods` of them at most."""

    name: str
    pods: int
    cpus: float  # of each
    gpus: float
    memory_bytes: float


def read_groups(path: Path) -> list[Group]:
    """Of the file's only Ray cluster, job or service. Raises UserError where there is none, or more than one."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as YAML ({reason}); give what `kubectl kustomize` prints") from error
    found = [each for each in documents if isinstance(each, dict) and each.get("kind") in SPEC_OF]
    if len(found) != 1:
        raise UserError(f"{path}: holds {len(found)} Ray clusters, jobs or services; give what one overlay renders to")
    return groups_of(found[0], str(path))


def groups_of(document: Mapping[str, Any], where: str) -> list[Group]:
    """Raises UserError for a group that does not say what its pods have."""
    spec: Any = document.get("spec") or {}
    for key in SPEC_OF[document["kind"]]:
        spec = spec.get(key) or {}
    return [_group(each, where) for each in spec.get("workerGroupSpecs") or []]


def nodes_of(groups: Sequence[Group]) -> list[Nodes]:
    """As many as the groups may grow to."""
    return [Nodes(group.pods, group.cpus, group.gpus) for group in groups]


def _group(group: Mapping[str, Any], where: str) -> Group:
    name = group.get("groupName", "?")
    try:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        return Group(
            name,
            int(group["maxReplicas"]),
            quantity(limits["cpu"]),
            quantity(limits.get(GPU, 0)),
            quantity(limits["memory"]),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: workerGroupSpecs {name}: {error} is missing or no number; give maxReplicas, and cpu and memory "
            "in resources.limits of the first container"
        ) from error


def quantity(text: Any) -> float:
    """A Kubernetes quantity: 500m, 2, 32Gi. Raises ValueError."""
    number = str(text).rstrip("kKmMGTi")
    unit = str(text)[len(number) :]
    if unit not in UNITS:
        raise ValueError(str(text))
    return float(number) * UNITS[unit]
