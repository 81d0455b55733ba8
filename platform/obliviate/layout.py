"""How transformers names and lays out a model's tensors in files, where that is other than in memory."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from obliviate.weights import Stored


def named_in_files(model: "PreTrainedModel", files: "Mapping[str, Stored]") -> dict[str, str] | None:
    """Of each tensor of the model the name of the one in the files that is the same, number for number; None where
    loading would do more than rename, or finds too little.

    The model, which may be empty, then remembers the renaming for when it is written again.
    """
    mapping, targets = _targets(model, files)
    own = model.state_dict()
    found: dict[str, str] = {}
    for name, (target, converted) in targets.items():
        if converted or files[name].dtype is None or files[name].shape != tuple(own[target].shape):
            return None
        found[target] = name
    for target, source in model.all_tied_weights_keys.items():
        one = found.get(source, found.get(target))
        if one is not None:
            found |= {source: one, target: one}
    if set(own) - set(found):
        return None
    model._weight_conversions = [each for each in mapping if each.was_used()]
    return found


def targets_of_files(model: "PreTrainedModel", files: Iterable[str]) -> dict[str, str]:
    """Of each tensor in the files the name of the one in the model that it becomes, or a part of it: an expert's in the
    files is one of many that the model holds fused. What the model does not read is left out."""
    return {name: target for name, (target, _) in _targets(model, files)[1].items()}


def _targets(model: "PreTrainedModel", files: Iterable[str]) -> tuple[list[Any], dict[str, tuple[str, bool]]]:
    """transformers' mapping; of each tensor in the files what it becomes, and whether by more than renaming."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    own = model.state_dict()
    found: dict[str, tuple[str, bool]] = {}
    for name in sorted(files, key=dot_natural_key):
        renamed, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, own)
        if renamed not in own and name in own:  # as transformers has it
            renamed, converter = rename_source_key(name, [], [], model.base_model_prefix, own)
        if renamed in own:
            found[name] = (renamed, converter is not None)
    return mapping, found


def renamed_in_files(model: "PreTrainedModel", name: str) -> str | None:
    """What one tensor of the model is called in files; None where more is done to it there than naming."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, WeightConverter, WeightRenaming, rename_source_key

    mapping = getattr(model, "_weight_conversions", None)
    if mapping is None:  # as revert_weight_conversion has it
        found = get_model_conversion_mapping(model, add_legacy=False)
        mapping = [each for each in found if not isinstance(each, PrefixChange)]
    back = [each.reverse_transform() for each in reversed(mapping)]
    renamings = [each for each in back if isinstance(each, WeightRenaming)]
    converters = [each for each in back if isinstance(each, WeightConverter)]
    renamed, converter = rename_source_key(name, renamings, converters, reverse=True)
    return str(renamed) if converter is None else None


def in_files(model: "PreTrainedModel", tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Tensors of the model, all or those of a part of it, as transformers writes them.

    Of shared ones only the name that is loaded again. They may be empty: then this tells names and shapes.
    """
    from transformers.core_model_loading import revert_weight_conversion

    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    kept: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    reverted: dict[str, Tensor] = revert_weight_conversion(model, kept)
    return reverted
