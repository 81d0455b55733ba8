"""A model's own randomness in training, switched off: what is trained is then the function that is measured."""

from copy import deepcopy
from types import MethodType
from typing import Any

from torch import nn


def turn_off(model: Any) -> None:
    """Of a transformers model that has no adapters yet. Its config keeps the rates, for whoever saves it.

    Rates have names such as attention_dropout and resid_pdrop. A router's jitter may also say which experts are near
    enough (Phi-MoE), and stays: such modules are held in evaluation instead.
    """
    quiet: dict[int, Any] = {}  # by the id of the config that it stands for
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if any("jitter" in name for name in vars(module)):
            module.train = MethodType(_stay, module)
        _zero(module)
        config = getattr(module, "config", None)
        if module is not model and config is not None:  # some read the rate of it at every step
            if id(config) not in quiet:
                quiet[id(config)] = deepcopy(config)
                _zero(quiet[id(config)])
            module.config = quiet[id(config)]


def _zero(holder: Any) -> None:
    for name, value in list(vars(holder).items()):
        if isinstance(value, float) and "drop" in name:
            setattr(holder, name, 0.0)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    del mode
    return nn.Module.train(module, False)
