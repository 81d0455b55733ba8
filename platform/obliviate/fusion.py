"""Adapters of several requests fused in closed form (EUL; Chen and Yang 2023, arXiv:2310.20150, section 3.3).

Request i changes a layer by W_i, and its texts reach that layer as the rows of X_i. The one change that comes closest
to all of them, each on its own texts, minimises the sum of |X_i W^T - X_i W_i^T|^2: W = (sum W_i G_i) (sum G_i)^-1 with
the Gram matrices G_i = X_i^T X_i. So neither texts nor models are needed, and a request is added or withdrawn without
training. Adapters have low rank, W_i = s_i B_i A_i, and so has W: the factors A_i G_i (sum G_i)^-1 one below the other,
and s_i B_i side by side, are exactly an adapter whose rank is the sum of theirs.

Shapes: R rank, D inputs, O outputs of a layer.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from obliviate.errors import UserError
from obliviate.models import name_elsewhere
from obliviate.runs import whole_folder

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
GRAMS = "grams.safetensors"  # beside the adapter's folder: name of each factor A -> Gram matrix of its inputs
A, B = ".lora_A.weight", ".lora_B.weight"


class Part(NamedTuple):
    """One request's change of one layer, scale x B A, and the Gram matrix of the request's inputs."""

    a_RD: "Tensor"
    b_OR: "Tensor"
    scale: float
    gram_DD: "Tensor"


def fuse_layer(parts: Sequence[Part], ridge: float) -> "tuple[Tensor, Tensor]":
    """The factors A [sum of ranks, D] and B [O, sum of ranks] of the fused change, float32.

    `ridge`, as a share of the mean diagonal, is added to each Gram matrix's: along directions that no request uses,
    where the sum has no inverse, the fused change is the mean of all. Solved in float64.
    """
    import torch

    size = parts[0].gram_DD.shape[0]
    level = ridge * sum(float(part.gram_DD.trace()) for part in parts) / (len(parts) * size)
    grams = [part.gram_DD.double() + max(level, 1e-12) * torch.eye(size, dtype=torch.float64) for part in parts]
    total_DD = torch.stack(grams).sum(0)
    factors = [
        torch.linalg.solve(total_DD, gram_DD @ part.a_RD.double().T).T
        for part, gram_DD in zip(parts, grams, strict=True)
    ]
    return torch.cat(factors).float(), torch.cat([part.scale * part.b_OR.float() for part in parts], dim=1)


def fuse(adapters: Mapping[str, Path], base: str, folder: Path, ridge: float) -> None:
    """Write the fused adapter to `folder`, whole. `adapters`: name -> folder of a request's adapter, beside which its
    Gram matrices lie. A layer at a time is held.

    Raises UserError for an adapter of another base model, for one that is no plain LoRA, for one without Gram matrices,
    and where adapters change different layers.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    configs = {name: _config(name, path, base) for name, path in adapters.items()}
    fused: dict[str, Tensor] = {}
    with ExitStack() as stack:
        weights = {name: stack.enter_context(safe_open(path / WEIGHTS, "pt")) for name, path in adapters.items()}
        grams = {name: stack.enter_context(safe_open(path.parent / GRAMS, "pt")) for name, path in adapters.items()}
        layers = _layers({name: list(each.keys()) for name, each in weights.items()})
        for layer in layers:
            parts = [
                Part(
                    each.get_tensor(layer + A),
                    each.get_tensor(layer + B),
                    configs[name]["lora_alpha"] / configs[name]["r"],
                    grams[name].get_tensor(layer + A),
                )
                for name, each in weights.items()
            ]
            fused[layer + A], fused[layer + B] = (each.contiguous() for each in fuse_layer(parts, ridge))
    rank = sum(config["r"] for config in configs.values())
    assert all(torch.isfinite(each).all() for each in fused.values())
    first = next(iter(configs.values()))
    with whole_folder(folder) as temporary:
        save_file(fused, temporary / WEIGHTS, metadata={"format": "pt"})
        # The scales are in B: alpha equal to the rank leaves it as it is.
        config = {**first, "r": rank, "lora_alpha": rank, "base_model_name_or_path": base}
        (temporary / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def base_of(folder: Path, key: str) -> str:
    """What the adapter in a folder was trained on, by the name that all nodes have for it.

    Raises UserError, with the config's key, for no adapter.
    """
    named = str(_read(folder, key).get("base_model_name_or_path"))
    try:
        return name_elsewhere(named)
    except UserError:  # a path that is no longer there: as it was written
        return named


def _read(folder: Path, key: str) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise UserError(f"{key}: {folder}: no adapter (no {CONFIG} in it); give the folder of one")
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{key}: {folder / CONFIG}: is no JSON ({error}); mend it") from error
    return config


def _config(name: str, folder: Path, base: str) -> dict[str, Any]:
    key = f"adapters.{name}"
    config = _read(folder, key)
    if (theirs := base_of(folder, key)) != name_elsewhere(base):
        raise UserError(
            f"{key}: {folder}: was trained on {theirs}, not on {base}; adapters of another base model cannot be fused "
            "with these: train it again on this one"
        )
    if config.get("peft_type") != "LORA" or config.get("use_rslora") or config.get("use_dora"):
        raise UserError(f"{key}: {folder}: is no plain LoRA adapter, and only those are fused in closed form")
    if config.get("target_parameters"):
        raise UserError(f"{key}: {folder}: changes a mixture's experts, whose adapters cannot be fused")
    if not (folder.parent / GRAMS).exists():
        raise UserError(
            f"{key}: {folder.parent}: has no {GRAMS}; give its data under `requests`, which trains it and measures "
            "what it reads"
        )
    return config


def _layers(keys: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of the layers that all adapters change."""
    found = {name: {key.removesuffix(A) for key in each if key.endswith(A)} for name, each in keys.items()}
    first, *others = found.items()
    for name, layers in others:
        if different := sorted(layers ^ first[1]):
            raise UserError(
                f"adapters.{name}: changes other layers than {first[0]} ({different[0]}, for example); train both with "
                "the same model.lora"
            )
    return sorted(first[1])
