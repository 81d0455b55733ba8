"""What KubeRay's autoscaler may bring up. Ray itself is never told: it knows the pods that are there.

The cluster's description, a RayCluster, says it. KubeRay gives the head's service account the right to read it, for the
autoscaler beside the head; so it is a task on the head that reads it, by the autoscaler's own code.
"""

import os
from functools import cache
from pathlib import Path

from obliviate.nodes import Nodes

CLUSTER = "RAY_CLUSTER_NAME"  # of the environment: KubeRay sets it in every pod
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@cache  # a description is not changed while something runs
def growth() -> tuple[Nodes, ...] | None:
    """The nodes that there may be; None where this is no KubeRay cluster, or one without an autoscaler.

    Ray must be initialised.
    """
    if CLUSTER not in os.environ:
        return None
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    on_the_head = ray.remote(described).options(
        num_cpus=0,
        resources={"node:__internal_head__": 0.001},
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),  # not what a trial has reserved
    )
    found: tuple[Nodes, ...] | None = ray.get(on_the_head.remote())
    return found


def described() -> tuple[Nodes, ...] | None:
    """By the description that this pod may read; None where it may not, or where nothing grows."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        api = KubernetesHttpApiClient(NAMESPACE.read_text(encoding="utf-8"))
        description = api.get(f"rayclusters/{os.environ[CLUSTER]}")
    except OSError:  # no account's files; requests' exceptions are OSErrors, too
        return None
    if not description["spec"].get("enableInTreeAutoscaling"):
        return None
    config = _derive_autoscaling_config_from_ray_cr(description)
    return tuple(
        Nodes(
            1 if name == config["head_node_type"] else kind["max_workers"],  # its own entry says 0: it is no worker
            float(kind["resources"].get("CPU", 0)),
            float(kind["resources"].get("GPU", 0)),
        )
        for name, kind in config["available_node_types"].items()
    )
