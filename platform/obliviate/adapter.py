"""Adapters (PEFT) as models: what they were trained on, and both together. None is ever left out in silence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    name: str  # folder or hub id
    revision: str | None
    config: dict[str, Any]

    @property
    def base(self) -> str:
        """As the config names it; a path that leads on from the adapter's own folder becomes a whole one.

        Raises UserError where it names none, or two things.
        """
        named = self.config.get("base_model_name_or_path")
        if not named:
            raise UserError(
                f"model.base: {self.name}: is an adapter whose {CONFIG} names no base model; set model.base to the "
                "model that it was trained on"
            )
        beside, here = Path(self.name) / named, Path(named)
        if Path(named).is_absolute() or not beside.exists():
            return str(named)
        if here.exists() and not here.samefile(beside):
            raise UserError(
                f"model.base: {named}: the base of the adapter {self.name} could be {beside.resolve()} or "
                f"{here.resolve()}; set model.base to one of them"
            )
        return str(beside.resolve())

    def attach(self, model: "PreTrainedModel", *, trainable: bool = False) -> Any:
        """The base with this adapter on it, as PEFT's model. Raises UserError where a weight of it finds no place."""
        from peft import PeftModel
        from safetensors import SafetensorError

        self._untie_ends(model)
        keywords = {} if self.revision is None else {"revision": self.revision}
        try:
            adapted = PeftModel.from_pretrained(model, self.name, is_trainable=trainable, **keywords)
            found = adapted.load_adapter(self.name, "default", is_trainable=trainable, **keywords)  # says what is left
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(
                f"model.source: {self.name}: the adapter does not fit its base {self._base_of(model)} "
                f"({str(error).strip().partition(chr(10))[0]}); set model.base to the model that it was trained on"
            ) from error
        if left := sorted({*found.missing_keys, *found.unexpected_keys}):
            raise UserError(
                f"model.source: {self.name}: {len(left)} of the adapter's weights ({left[0]}, for example) have no "
                f"place in its base {self._base_of(model)}; set model.base to the model that it was trained on"
            )
        return adapted

    def merge(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The base with the adapter added to its weights. Raises UserError for a kind that cannot be added to them."""
        adapted = self.attach(model)
        if not hasattr(adapted, "merge_and_unload"):
            raise UserError(
                f"model.source: {self.name}: an adapter of the kind {self.kind} cannot be merged into weights; give a "
                "LoRA adapter, or a whole model"
            )
        merged: PreTrainedModel = adapted.merge_and_unload()
        merged.requires_grad_(True)
        return merged

    @property
    def kind(self) -> str:
        return str(self.config.get("peft_type"))

    def changes(self) -> Sequence[str]:
        """Names, or their ends, of the modules that it changes or replaces; none where a pattern says which."""
        named = (self.config.get("target_modules") or (), self.config.get("modules_to_save") or ())
        return [name for names in named if not isinstance(names, str) for name in names]

    def _untie_ends(self, model: "PreTrainedModel") -> None:
        """Where the adapter changes one of two ends that share their weight, the other keeps it as it is."""
        import torch

        head, ends = model.get_output_embeddings(), model.get_input_embeddings()
        if head is None or head.weight is not ends.weight:
            return
        names = {name.rpartition(".")[2] for name, module in model.named_modules() if module in (head, ends)}
        if any(name.rpartition(".")[2] in names for name in self.changes()):
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
            model.config.get_text_config().tie_word_embeddings = False
            model.config.tie_word_embeddings = False
            model.all_tied_weights_keys = {}

    def _base_of(self, model: "PreTrainedModel") -> str:
        return str(model.config.name_or_path or self.config.get("base_model_name_or_path"))


def find(located: str, revision: str | None) -> Adapter | None:
    """The adapter in a folder, or under a hub id; None where there is none."""
    if located.endswith(".gguf"):
        return None
    if (folder := Path(located)).exists():
        return _read(located, None, folder / CONFIG) if (folder / CONFIG).is_file() else None
    return _on_hub(located, revision)


@lru_cache  # the hub is asked each time
def _on_hub(name: str, revision: str | None) -> Adapter | None:
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        file = find_adapter_config_file(name, revision=revision)
    except (OSError, ValueError):  # no such id: whoever loads it says so
        return None
    return None if file is None else _read(name, revision, Path(file))


def _read(name: str, revision: str | None, file: Path) -> Adapter:
    try:
        return Adapter(name, revision, json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"model.source: {file}: is no JSON ({error}); mend it") from error
