"""The trained model as a Hugging Face folder: whole weights, or an adapter beside a reference to its base.

Weights go to disk a layer at a time: the workers send the first one their parts of a layer, which adds adapters to it,
lays it out as the source's files were and writes it. So nobody holds more than its share of the model and one layer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from obliviate.decoder import decoder_layers
from obliviate.errors import UserError
from obliviate.layout import in_files, renamed_in_files
from obliviate.models import write_companions, write_tokenizer
from obliviate.runs import whole_folder
from obliviate.schema import ModelSpec
from obliviate.source import base_of, export_dtype, name_elsewhere, tensors_of
from obliviate.train.model import ADAPTED, PREFIX, ScoredModel, plain_name
from obliviate.train.reading import bytes_of, pieces, rows_of
from obliviate.train.rounding import Rounding
from obliviate.train.together import together
from obliviate.writer import Writer, written_as

# Whatever transformers, PEFT and tokenizers raise where they cannot write: all workers must know, and keep the weights.
FAILURES = (ValueError, RuntimeError, TypeError, KeyError, AttributeError, AssertionError, SafetensorError)
_OF_ADAPTERS = re.compile(r"\.(?:base_layer|lora_\w+|modules_to_save|original_module)\b")


def check(scored: ScoredModel, spec: ModelSpec) -> None:
    """All of an export but the weights, before the first step: names and shapes of what will be written, config,
    generation defaults, tokenizer. Every worker calls it; raises UserError, on all, where something cannot be."""

    def act() -> None:
        if dist.get_rank() == 0:
            plan = Plan.of(scored, spec)
            with TemporaryDirectory() as folder:
                plan.write_companions(Path(folder))

    if cause := together(act, FAILURES):
        raise UserError(cause if cause.startswith("model.") else f"model.source: {spec.source}: no export: {cause}")


@torch.no_grad()
def export(scored: ScoredModel, spec: ModelSpec, folder: Path) -> Rounding | None:
    """Write the model to `folder`, whole, in the dtype that the spec says. Every worker calls it.

    The first one gets what rounding leaves of adapters that are merged; None where nothing is merged, or rounded.
    Raises UserError, on every worker, where it cannot be written.
    """
    plans: list[Plan] = []
    cause = together(lambda: plans.append(Plan.of(scored, spec)), FAILURES)
    if not cause:
        cause = together(lambda: _write(plans[0], folder), FAILURES)
    if cause:
        raise UserError(
            f"{folder}: the model could not be written ({cause}); mend that and run the same command again: it "
            "continues from the last checkpoint"
        )
    return plans[0].rounding


def _write(plan: "Plan", folder: Path) -> None:
    units = _gathered(plan)
    try:
        if dist.get_rank() == 0:
            with whole_folder(folder) as temporary:
                if plan.merges:
                    plan.write_weights(units, temporary)
                    plan.write_companions(temporary)
                else:
                    plan.write_adapter(units, temporary)
    finally:
        for _ in units:  # also where writing failed: the others wait for theirs to be taken
            pass


class Rows(NamedTuple):
    """A part of a tensor that is written as it is."""

    name: str  # in the files
    begin: int
    tensor: Tensor


def _gathered(plan: "Plan") -> Iterator[dict[str, Tensor] | Rows]:
    """On the first worker the tensors of each unit, whole, or a tensor's rows; the others send theirs."""
    for names in plan.units:
        if names[0] in plan.as_they_are:
            yield from _streamed(plan.state[names[0]], plan.as_they_are[names[0]], plan)
            continue
        unit: dict[str, Tensor] = {}
        for name in names:
            tensor = plan.state[name]
            found = _gather(tensor) if isinstance(tensor, DTensor) else tensor.cpu()
            if found is not None:
                unit[name] = found
        yield unit


def _streamed(tensor: Tensor, name: str, plan: "Plan") -> Iterator[Rows]:
    """Each worker's rows, piece by piece, in the dtype that they are written in."""
    shape, dtype = plan.tensors[name]
    rank = dist.get_rank()
    if not isinstance(tensor, DTensor):
        if rank == 0:
            yield Rows(name, 0, tensor)
        return
    mine = tensor.to_local()
    for owner in range(dist.get_world_size()):
        rows = rows_of(tensor, owner)
        for begin, end in pieces(rows.stop - rows.start, prod(shape[1:]) * dtype.itemsize):
            if owner == rank:
                piece = mine[begin:end].to(dtype).contiguous()
                if rank == 0:
                    yield Rows(name, rows.start + begin, piece)
                else:
                    dist.send(bytes_of(piece), 0)
            elif rank == 0:
                piece = torch.empty((end - begin, *shape[1:]), dtype=dtype, device=mine.device)
                dist.recv(bytes_of(piece), owner)
                yield Rows(name, rows.start + begin, piece)


def _gather(tensor: DTensor) -> Tensor | None:
    """The whole tensor on the first worker, in its memory. FSDP2 has cut it along its first dimension, into equal parts
    but for the last ones."""
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = tensor.to_local().contiguous()
    if rank > 0:
        if mine.numel():
            dist.send(mine, 0)
        return None
    if world == 1:
        return mine.cpu()
    whole = torch.empty(tensor.shape, dtype=tensor.dtype)
    whole[: len(mine)].copy_(mine)
    for other in range(1, world):
        part = whole[rows_of(tensor, other)]
        if part.numel():
            received = torch.empty_like(part, device=mine.device)
            dist.recv(received, other)
            part.copy_(received)
    return whole


@dataclass(frozen=True)
class Plan:
    """What is written, and in which order it is gathered."""

    spec: ModelSpec
    blank: Any  # the transformers model, empty; below adapters where there are any
    adapted: Any  # the same with its adapters; None without
    merges: bool  # whether whole weights are written
    state: Mapping[str, Tensor]  # what is trained, by its name in `blank`
    units: Sequence[Sequence[str]]  # names that are gathered together: a layer's, mostly
    as_they_are: Mapping[str, str]  # units of one tensor that is written as it is: its name -> that in the files
    tensors: Mapping[str, tuple[Sequence[int], torch.dtype]]  # what is written, by its name in the files
    dtype: torch.dtype  # of most of it
    rounding: Rounding | None  # of adapters that are merged

    @classmethod
    def of(cls, scored: ScoredModel, spec: ModelSpec) -> "Plan":
        causal, peft = scored.causal_lm, getattr(scored.model, "peft_config", None)
        config = deepcopy(causal.config)
        config.use_cache = True
        with torch.device("meta"):
            blank = type(causal)(config)
        blank.generation_config = causal.generation_config
        blank.all_tied_weights_keys = causal.all_tied_weights_keys
        if (conversions := getattr(causal, "_weight_conversions", None)) is not None:
            blank._weight_conversions = conversions
        tensors = dict(blank.state_dict())
        adapted = None if peft is None else _with_adapters(blank, peft["default"])
        prefix = PREFIX if adapted is None else PREFIX + ADAPTED
        state = {name.removeprefix(prefix): tensor for name, tensor in scored.state_dict().items()}
        layers = decoder_layers(causal)
        path = next(name for name, module in causal.named_modules() if module is layers)
        merges = adapted is None or spec.lora is None or spec.lora.merge
        names = [n for n in state if n not in blank.all_tied_weights_keys and (merges or not _is_frozen(n))]
        units = _units(names, path)
        whole = in_files(blank, tensors)
        parts = [
            in_files(blank, {plain_name(n): tensors[plain_name(n)] for n in names if _is_base(n)}) for names in units
        ]
        if merges and sorted(shape for part in parts for shape in _shapes(part)) != sorted(_shapes(whole)):
            units = [[name for names in units for name in names]]  # what lies in one file tensor is of several layers
        units, as_they_are = _one_by_one(blank, units) if merges else (units, {})
        dtype, stored = export_dtype(spec), tensors_of(spec, fetch=False) if spec.export_dtype == "source" else {}

        def dtype_of(name: str, tensor: Tensor) -> torch.dtype:
            own = stored[name].dtype if name in stored else None
            return written_as(tensor, own or dtype)

        written = {name: (tuple(each.shape), dtype_of(name, each)) for name, each in whole.items()}
        rounds = adapted is not None and merges and dtype != torch.float32 and dist.get_rank() == 0
        rounding = Rounding(str(dtype).removeprefix("torch.")) if rounds else None
        return cls(spec, blank, adapted, merges, state, units, as_they_are, written, dtype, rounding)

    def write_weights(self, units: "Iterator[dict[str, Tensor] | Rows]", folder: Path) -> None:
        writer = Writer(folder, self.tensors)
        for unit in units:
            if isinstance(unit, Rows):
                writer.write_rows(*unit)
                continue
            merged = unit if self.adapted is None else self._merged(unit)
            for name, tensor in in_files(self.blank, merged).items():
                writer.write(name, tensor)
        writer.close()

    def _merged(self, unit: dict[str, Tensor]) -> dict[str, Tensor]:
        """The adapters of a unit added to its weights, by PEFT, in the empty model's place for them."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.blank.load_state_dict(unit, assign=True, strict=False)
        before = {} if self.rounding is None else {name: unit[name].clone() for name in unit if _is_base(name)}
        owners = {_OF_ADAPTERS.split(name)[0] for name in unit if _OF_ADAPTERS.search(name)}
        for owner in owners:
            for module in self.blank.get_submodule(owner).modules():
                if isinstance(module, BaseTunerLayer):
                    module.merge()
        merged = {plain_name(name): self.blank.get_parameter_or_buffer(name) for name in unit if _is_base(name)}
        if self.rounding is not None:
            for name, tensor in before.items():
                self.rounding.add(tensor, merged[plain_name(name)], self.dtype)
        nothing = {name: torch.empty_like(tensor, device="meta") for name, tensor in unit.items()}
        self.blank.load_state_dict(nothing, assign=True, strict=False)
        return merged

    def write_adapter(self, units: "Iterator[dict[str, Tensor] | Rows]", folder: Path) -> None:
        state = {name: tensor for unit in units if not isinstance(unit, Rows) for name, tensor in unit.items()}
        self.blank.load_state_dict(state, assign=True, strict=False)
        config, base = self.adapted.peft_config["default"], base_of(self.spec) or self.spec
        config.base_model_name_or_path, config.revision = name_elsewhere(base.source), base.revision
        self.adapted.save_pretrained(folder)
        write_tokenizer(self.spec, folder)

    def write_companions(self, folder: Path) -> None:
        if self.merges:
            write_companions(self.blank, self.spec, folder, self.dtype)
        else:
            write_tokenizer(self.spec, folder)


def _shapes(tensors: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]


def _with_adapters(blank: Any, config: Any) -> Any:
    """The empty model with adapters like those of the trained one."""
    from peft import get_peft_model

    config = deepcopy(config)
    config.init_lora_weights = True  # some ways to begin compute with the base's weights
    with torch.device("meta"):
        return get_peft_model(blank, config)


def _units(names: Sequence[str], layers: str) -> list[list[str]]:
    """The names of each decoder layer, and of each module outside of them with its adapters."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(f"{layers}."):
            number = name.removeprefix(f"{layers}.").partition(".")[0]
            owner = f"{layers}.{number}"
        else:
            before, *rest = _OF_ADAPTERS.split(name, maxsplit=1)
            owner = before if rest else name.rpartition(".")[0]
        found.setdefault(owner, []).append(name)
    return list(found.values())


def _one_by_one(blank: Any, units: Sequence[Sequence[str]]) -> tuple[list[list[str]], dict[str, str]]:
    """The units, with those tensors alone that need no others: neither adapters nor another layout in files."""
    found: list[list[str]] = []
    as_they_are: dict[str, str] = {}
    for names in units:
        adapted = {_OF_ADAPTERS.split(name)[0] for name in names if _OF_ADAPTERS.search(name)}
        together: list[str] = []
        for name in names:
            alone = None if name.rpartition(".")[0] in adapted else renamed_in_files(blank, name)
            if alone is None or _OF_ADAPTERS.search(name):
                together.append(name)
            else:
                found.append([name])
                as_they_are[name] = alone
        if together:
            found.append(together)
    return found, as_they_are


def _is_base(name: str) -> bool:
    """Whether a tensor is a weight of the model to be, and not of an adapter, or one that an adapter replaces."""
    return ".lora_" not in name and ".original_module." not in name


def _is_frozen(name: str) -> bool:
    """Whether adapters beside a reference to their base leave it out."""
    return ".lora_" not in name and ".modules_to_save." not in name
