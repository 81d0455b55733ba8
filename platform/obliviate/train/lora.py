"""Low-rank adapters on every linear layer but the output layer, experts that are fused in one parameter included.

peft adapts a module by its output, and a bare parameter by its value (`target_parameters`): x (W + s B A)^T, where the
sum is made for all experts at once, in every forward pass.
"""

from typing import Any

import torch
from torch import nn

from obliviate.adapter import Adapter
from obliviate.errors import UserError
from obliviate.linear import adapted_weights
from obliviate.schema import LoraSpec
from obliviate.train.shards import whole

WEIGHT = ".weight"


def add_lora(model: Any, spec: LoraSpec, seed: int) -> Any:
    """Seeded, so that every worker starts from the same adapters."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    modules, parameters = _targets(model)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        # peft drops nothing of what a parameter's adapter reads, and refuses to be asked to.
        lora_dropout=0.0 if parameters else spec.dropout,
        target_modules=modules,
        target_parameters=parameters or None,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    if parameters and spec.dropout:
        _drop_where_possible(adapted, spec.dropout)
    return adapted


def continue_adapter(model: Any, adapter: Adapter, spec: LoraSpec) -> Any:
    """An adapter to be trained further, as it is but for the dropout. Raises UserError where it is no LoRA adapter."""
    from peft.tuners.lora import LoraLayer

    if adapter.kind != "LORA":
        raise UserError(
            f"model.lora: {adapter.name} is an adapter of the kind {adapter.kind}, and only LoRA adapters are trained "
            "further as such; set model.lora: null to train base and adapter as one model"
        )
    adapted = adapter.attach(model, trainable=True)
    adapted.peft_config["default"].lora_dropout = spec.dropout
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = nn.Dropout(spec.dropout) if spec.dropout else nn.Identity()
    return adapted


@torch.no_grad()
def adapter_change(layer: Any) -> torch.Tensor:
    """What a LoRA layer of peft adds to its weight, s B A, whole and as the weight lies. Every worker calls it."""
    from transformers.pytorch_utils import Conv1D

    out_OR, in_RD = (whole(side["default"].weight) for side in (layer.lora_B, layer.lora_A))
    change_OD: torch.Tensor = layer.scaling["default"] * out_OR @ in_RD
    return change_OD.T if isinstance(layer.base_layer, Conv1D) else change_OD


def _targets(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of modules and of parameters for peft to adapt.

    For some mixtures of experts peft takes any module with the name of an expert's projection (`gate_proj`) for an
    expert of an earlier transformers, and leaves out the dense and shared layers of that name; by their parameters they
    are found, also by whoever loads the adapter.
    """
    from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING

    pattern = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)  # type: ignore[union-attr]
    misread = _MOE_TARGET_MODULE_MAPPING.get(pattern, {})
    modules, parameters = [], []
    for name, weight in adapted_weights(model).items():
        module = name.removesuffix(WEIGHT)
        leaf = module.rpartition(".")[2]
        if not weight.plain or leaf in misread:
            parameters.append(name)
        else:
            modules.append(module)
    return modules, parameters


def _drop_where_possible(adapted: nn.Module, dropout: float) -> None:
    from peft.tuners.lora.layer import Linear

    for module in adapted.modules():
        if isinstance(module, Linear):
            module.lora_dropout["default"] = nn.Dropout(dropout)
