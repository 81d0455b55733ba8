"""What a cluster is made of, as far as costs depend on it."""

from dataclasses import dataclass, replace
from math import ceil


@dataclass(frozen=True)
class Gpu:
    """By the manufacturer's datasheet."""

    memory_bytes: float
    flops_per_s: float  # dense bfloat16 with float32 accumulation, without sparsity
    memory_bytes_per_s: float
    link_bytes_per_s: float  # to the other GPUs of its node, in one direction


GPUS = {
    "l4": Gpu(24e9, 121e12, 0.30e12, 32e9),  # PCIe 4 x16
    "a100": Gpu(80e9, 312e12, 2.04e12, 300e9),
    "h100": Gpu(80e9, 989e12, 3.35e12, 450e9),
    "h200": Gpu(141e9, 989e12, 4.80e12, 450e9),
}


@dataclass(frozen=True)
class Cluster:
    """Nodes with GPUs of one kind. Defaults: what clouds rent as a node of eight."""

    gpu: Gpu
    gpus_per_node: int = 8
    host_memory_bytes: float = 512 * 2**30  # of a node
    network_bytes_per_s: float = 400e9  # of a node to the others, in one direction: 400 Gb/s for each of eight GPUs
    storage_bytes_per_s: float = 2e9  # of each node, to and from what all nodes share
    shared_bytes_per_s: float = 20e9  # of what they share, to and from all of them together
    utilization: float = 0.4  # of flops_per_s that matrix products reach; measure it and give your own
    # Of both bandwidths, what NCCL's gathers and reductions of large tensors reach: 350 of 450 GB/s on eight H100
    # (NVIDIA/nccl issue 1281), 230 of 300 on eight A100 and 85 of 100 between nodes (NVIDIA/nccl-tests 149 and 119).
    collective: float = 0.77
    reserved_bytes: float = 1.5e9  # of a GPU: CUDA's context, NCCL's buffers, workspaces of libraries
    fragmentation: float = 1.1  # what the allocator holds, over what is in use

    @property
    def usable_bytes(self) -> float:
        """Of a GPU's memory, for what an estimate counts."""
        return (self.gpu.memory_bytes - self.reserved_bytes) / self.fragmentation

    def faster(self, times: float) -> "Cluster":
        """With all rates so many times as high, where 1 is right."""
        gpu = replace(
            self.gpu,
            memory_bytes_per_s=self.gpu.memory_bytes_per_s * times,
            link_bytes_per_s=self.gpu.link_bytes_per_s * times,
        )
        return replace(
            self,
            gpu=gpu,
            utilization=self.utilization * times,
            network_bytes_per_s=self.network_bytes_per_s * times,
            storage_bytes_per_s=self.storage_bytes_per_s * times,
            shared_bytes_per_s=self.shared_bytes_per_s * times,
        )

    def share(self, share: float) -> "Cluster":
        """As a process sees it that has this share of a GPU: it gets as much of its speed and memory."""
        gpu = replace(
            self.gpu,
            memory_bytes=self.gpu.memory_bytes * share,
            flops_per_s=self.gpu.flops_per_s * share,
            memory_bytes_per_s=self.gpu.memory_bytes_per_s * share,
        )
        return replace(self, gpu=gpu)  # each process reserves as much as one that has the GPU alone

    def bandwidth(self, gpus: int) -> float:
        """Bytes per second that each of so many GPUs sends in a ring through all of them.

        Between nodes as many rings as there are adapters share the work: what a node sends in all is the limit.
        """
        link = self.gpu.link_bytes_per_s
        reached = link if gpus <= self.gpus_per_node else min(link, self.network_bytes_per_s)
        return reached * self.collective

    def reading(self, gpus: float) -> float:
        """Bytes per second that each node of so many GPUs reads when all read at once."""
        return min(self.storage_bytes_per_s, self.shared_bytes_per_s / self._nodes(gpus))

    def writing(self, gpus: float, writers: int) -> float:
        """Bytes per second of each of the writers, which are spread over the nodes of so many GPUs."""
        on_a_node = ceil(writers / self._nodes(gpus))
        return min(self.storage_bytes_per_s / on_a_node, self.shared_bytes_per_s / writers)

    def _nodes(self, gpus: float) -> int:
        return ceil(gpus / self.gpus_per_node)
