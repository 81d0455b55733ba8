"""The weights of a model's source, of which each worker reads its own parts alone, into a model that is empty before.

Parts are slices of the safetensors files. Where loading does more than rename tensors (experts that are fused, GGUF,
pickled weights, an adapter that is merged), the first worker loads the model as a whole and sends the others theirs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from obliviate import companions
from obliviate.errors import UserError
from obliviate.layout import named_in_files
from obliviate.models import load_config, load_pretrained
from obliviate.schema import ModelSpec
from obliviate.source import adapter_of, file_of, tensors_of
from obliviate.train.together import together
from obliviate.weights import Stored

PIECE_BYTES = 64 * 2**20  # read, sent and written at a time, of tensors that need no more


@dataclass(frozen=True)
class Parts:
    """Where the tensors of a model come from, by their names in it."""

    files: Mapping[str, Stored]  # empty: from `whole`
    whole: dict[str, Tensor]  # on the first worker, and empty on the others

    def part(self, name: str, like: Tensor, device: torch.device) -> Tensor:
        """This worker's part of a tensor that is cut as `like` is, in that one's dtype. Every worker calls it."""
        rows = rows_of(like, dist.get_rank())
        if self.files:
            return _read(self.files[name], rows, like.dtype, device)
        return self._sent(name, like, rows, device)

    def _sent(self, name: str, like: Tensor, rows: slice, device: torch.device) -> Tensor:
        if dist.get_rank() > 0:
            shape = (rows.stop - rows.start, *like.shape[1:]) if like.dim() else ()
            part = torch.empty(shape, dtype=like.dtype, device=device)
            if part.numel():
                dist.recv(bytes_of(part), 0)
            return part
        tensor = self.whole[name].to(like.dtype)
        for other in range(1, dist.get_world_size()):
            theirs = (tensor[rows_of(like, other)] if like.dim() else tensor).contiguous().to(device)
            if theirs.numel():
                dist.send(bytes_of(theirs), other)
        if isinstance(like, DTensor) and dist.get_world_size() > 1:
            tensor = tensor[rows].clone(memory_format=torch.contiguous_format)
        return tensor.contiguous().to(device)


def bytes_of(tensor: Tensor) -> Tensor:
    """The same memory, in a kind of number that every backend sends."""
    return tensor.reshape(-1).view(torch.uint8)


def rows_of(like: Tensor, rank: int) -> slice:
    """Which of the first dimension are a worker's: FSDP2 makes equal parts but for the last ones."""
    if not like.dim():
        return slice(0, 1)
    length = like.shape[0]
    size = -(-length // dist.get_world_size()) if isinstance(like, DTensor) else length
    begin = min(rank * size, length) if isinstance(like, DTensor) else 0
    return slice(begin, min(begin + size, length))


def _read(stored: Stored, rows: slice, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy, made piece by piece: what is read of an open file stays in memory until it is closed."""
    from safetensors import safe_open

    if not stored.shape:
        with safe_open(stored.file, framework="pt") as weights:
            return torch.as_tensor(weights.get_tensor(stored.name), dtype=dtype).clone().to(device)
    part = torch.empty((rows.stop - rows.start, *stored.shape[1:]), dtype=dtype, device=device)
    for begin, end in pieces(rows.stop - rows.start, part[:1].nbytes):
        with safe_open(stored.file, framework="pt") as weights:
            part[begin:end] = weights.get_slice(stored.name)[rows.start + begin : rows.start + end]
    return part


def pieces(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """First and last of so many rows at a time that they are no more than `PIECE_BYTES`."""
    size = max(1, PIECE_BYTES // max(1, row_bytes))
    for begin in range(0, rows, size):
        yield begin, min(begin + size, rows)


def opened(spec: ModelSpec) -> tuple[PreTrainedModel, Parts]:
    """The model without weights, in evaluation mode, and where its parts come from. Every worker calls it.

    Raises UserError, on all of them, where there is no such model.
    """
    found: list[tuple[PreTrainedModel, Parts]] = []

    def look() -> None:
        files = {} if adapter_of(spec) is not None else tensors_of(spec)
        model = _empty(load_config(spec), spec)
        names = named_in_files(model, files) if files else None
        found.append((model, Parts({own: files[name] for own, name in (names or {}).items()}, {})))

    if cause := together(look):
        raise UserError(cause)
    known = [False] * dist.get_world_size()
    dist.all_gather_object(known, bool(found[0][1].files))
    return found[0] if all(known) else _whole(spec)


def _whole(spec: ModelSpec) -> tuple[PreTrainedModel, Parts]:
    loaded: list[PreTrainedModel] = []

    def load() -> None:
        if dist.get_rank() == 0:
            loaded.append(load_pretrained(spec, dtype=torch.float32)[0])

    if cause := together(load):
        raise UserError(cause)
    told: list[Any] = [None]
    if loaded:
        own = loaded[0]
        told = [(own.config, own.generation_config, own.all_tied_weights_keys, own._weight_conversions)]
    dist.broadcast_object_list(told)
    config, generation, tied, conversions = told[0]
    model = _empty(config, spec)
    model.generation_config, model.all_tied_weights_keys, model._weight_conversions = generation, tied, conversions
    whole = {}
    if loaded:
        whole = dict(loaded[0].named_parameters(remove_duplicate=False)) | dict(loaded[0].named_buffers())
    return model, Parts({}, {name: tensor.detach() for name, tensor in whole.items()})


def _empty(config: Any, spec: ModelSpec) -> PreTrainedModel:
    """In float32, without weights, but with what a model computes for itself, such as rotary frequencies."""
    with init_empty_weights(include_buffers=False), no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.tie_weights(recompute_mapping=False)  # each was emptied by itself
    generation = companions.read(file_of(spec, companions.GENERATION))
    if generation is not None:
        generation = companions.repaired({}, generation).generation
        model.generation_config = GenerationConfig.from_dict(generation)
    return model.eval()


@contextmanager
def standing_in(model: nn.Module) -> Iterator[None]:
    """While it is open each empty weight is one number that looks like all of them: PEFT, which puts adapters where the
    weights are that they are for, makes real ones."""
    stands: dict[int, nn.Parameter] = {}
    empty: dict[int, nn.Parameter] = {}
    for module, name, parameter in _places(model):
        if parameter.is_meta:
            shape = parameter.shape
            stand = stands.setdefault(id(parameter), nn.Parameter(torch.zeros((), dtype=parameter.dtype).expand(shape)))
            empty[id(stand)] = parameter
            module._parameters[name] = stand
    yield
    for module, name, parameter in _places(model):
        if id(parameter) in empty:
            empty[id(parameter)].requires_grad = parameter.requires_grad
            module._parameters[name] = empty[id(parameter)]


def _places(model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    return [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


@torch.no_grad()
def fill(module: nn.Module, parts: Parts, name_of: Callable[[str], str], device: torch.device) -> None:
    """Put this worker's parts into the sharded module, which is empty. `name_of`: a name in it -> that in the source.

    Every worker calls it.
    """
    shared: dict[int, nn.Parameter] = {}  # tied weights are one
    filled: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if not local.is_meta:
            continue
        if id(parameter) not in shared:
            part = parts.part(name_of(name), parameter, device)
            if isinstance(parameter, DTensor):
                part = DTensor.from_local(
                    part, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.size(),
                    stride=parameter.stride(),
                )  # fmt: skip
            shared[id(parameter)] = nn.Parameter(part, requires_grad=parameter.requires_grad)
        filled[name] = shared[id(parameter)]
    module.load_state_dict(filled, assign=True, strict=False)
    kept = set(module.state_dict())
    for name, buffer in module.named_buffers():
        if name in kept or not parts.files:
            buffer.copy_(parts.part(name_of(name), buffer, buffer.device))
