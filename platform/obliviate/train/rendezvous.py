"""How training's workers find each other on a local cluster: by a file, where torch's store would listen everywhere.

`dist.TCPStore` binds its port to all of the machine's addresses and asks nobody for a token.
"""

import os
import uuid
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


class LocalTorchConfig(TorchConfig):  # type: ignore[misc]  # Ray has no types
    """For workers on one node."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _FileBackend


class _FileBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        file = worker_group.execute_single(0, _new_name)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend_config.backend,
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{file}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )


def _new_name() -> str:
    """Of a file that is not there yet; torch creates it. It lies with what else is of this Ray session alone: workers
    are killed before torch would remove it."""
    return os.path.join(ray._private.worker._global_node.get_session_dir_path(), f"store-{uuid.uuid4().hex}")
