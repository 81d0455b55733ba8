"""Which of a model's weights are linear layers, whatever holds them: what adapters change, and what a token costs.

Mixtures of experts hold theirs fused: one parameter [E experts, O, D], of which a token meets a few.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

TRANSPOSED = {"Llama4TextExperts"}  # that do not say so themselves


@dataclass(frozen=True)
class LinearWeight:
    inputs: int
    outputs: int
    experts: int = 1  # of one parameter
    met: int = 1  # experts that each token goes through
    plain: bool = True  # a module that multiplies and no more: adapters go beside it; else they go into the weight
    transposed: bool = False  # of [inputs, outputs], not [outputs, inputs]

    @property
    def numbers(self) -> int:
        return self.experts * self.inputs * self.outputs

    @property
    def idle(self) -> int:
        """Numbers that a token is not multiplied with."""
        return (self.experts - self.met) * self.inputs * self.outputs

    def adapter(self, rank: int) -> int:
        """Parameters of a low-rank adapter of it, one for each expert."""
        return rank * self.experts * (self.inputs + self.outputs)


def linear_weights(model: "nn.Module") -> "dict[str, LinearWeight]":
    """By the parameter's name, those of all linear layers but the output layer."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
    found = {}
    for name, module in model.named_modules():
        if module is head:
            continue
        for each, parameter in fused(module).items():
            experts = 1 if parameter.ndim == 2 else parameter.shape[0]
            outputs, inputs = parameter.shape[-2:]
            transposed = getattr(module, "is_transposed", type(module).__name__ in TRANSPOSED) and parameter.ndim == 3
            if transposed:
                inputs, outputs = outputs, inputs
            met = min(experts, _met(model, name))
            found[f"{name}.{each}"] = LinearWeight(inputs, outputs, experts, met, plain=False, transposed=transposed)
        if f"{name}.weight" in found:
            continue
        if isinstance(module, nn.Linear):
            found[f"{name}.weight"] = LinearWeight(module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            found[f"{name}.weight"] = LinearWeight(inputs, outputs, transposed=True)
    return found


def adapted_weights(model: "nn.Module") -> "dict[str, LinearWeight]":
    """Those that adapters can change: the model, or a kernel of its, reads some weights of Mamba past any adapter."""
    return {name: weight for name, weight in linear_weights(model).items() if not _bypassed(model, name)}


def _bypassed(model: "nn.Module", name: str) -> bool:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    mixer, leaf = name.split(".")[:-2], name.split(".")[-2]
    if leaf == "dt_proj" and hasattr(model.get_submodule(".".join(mixer)), "A_log"):
        return True  # peft would adapt it without effect, and merge the adapter with one
    try:
        _check_lora_target_modules_mamba(LoraConfig(), model, leaf)
    except ValueError:
        return True
    return False


def fused(module: "nn.Module") -> "dict[str, nn.Parameter]":
    """Of the module's own parameters those that multiply what it does not read as it is, or not only: a matrix for each
    expert, and a router's, which chooses experts (some are linear layers that return more than a product)."""
    count, routes = getattr(module, "num_experts", None), isinstance(getattr(module, "top_k", None), int)
    return {
        name: each
        for name, each in module.named_parameters(recurse=False)
        if (each.ndim == 3 and each.shape[0] == count) or (routes and name == "weight" and each.ndim == 2)
    }


def _met(model: "nn.Module", experts: str) -> int:
    """How many of these experts a token goes through, which the module around them or the router beside them knows."""
    around = model.get_submodule(experts.rpartition(".")[0])
    counts = [getattr(module, "top_k", None) for module in (around, *around.children())]
    config: Any = model.config
    counts.append(getattr(config.get_text_config(), "num_experts_per_tok", None))
    return next(count for count in counts if isinstance(count, int))
