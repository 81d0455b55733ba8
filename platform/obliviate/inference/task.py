"""Work on models that is no engine's, done where an engine would be: in one Ray task with what a replica has."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from obliviate.cluster import ensure_ray, worker_environment
from obliviate.errors import UserError
from obliviate.inference.pool import place, result
from obliviate.schema import EngineSpec

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_task(
    spec: EngineSpec,
    address: str | None,
    function: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> Result:
    """What the function returns, beside the resources of a replica of the Hugging Face engine.

    Raises UserError as the function does, for what the cluster can never hold, and where the process dies again and
    again.
    """
    ensure_ray(address)
    placement = place(spec.model_copy(update={"type": "hf", "replicas": 1, "tensor_parallel": 1}))
    task = ray.remote(_with_threads).options(
        num_cpus=placement.cpus, num_gpus=placement.gpus, runtime_env={"env_vars": worker_environment()}
    )
    try:
        found: Result = result(task.remote(placement.cpus, function, arguments, named))
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise UserError(
            "engine: a process that reads a model's hidden states died, most likely for want of memory; lower "
            "engine.batch_tokens, or use a smaller model"
        ) from error
    return found


def _with_threads(cpus: float, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    import torch

    torch.set_num_threads(max(1, int(cpus)))
    return function(*arguments, **named)
