"""From the name in a request to what answers it: models, adapters, and aliases that are switched at any time."""

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from obliviate.aliases import read_aliases, set_alias
from obliviate.errors import UserError
from obliviate.labels import not_removed
from obliviate.schema import ModelSpec
from obliviate_serve.api import ModelList, ServedModel
from obliviate_serve.errors import ApiError
from obliviate_serve.spec import NAME, ServeRun
from obliviate_serve.stamp import stamp

# A number of b bits has b log10(2) decimal digits: 2.4 of bfloat16's 8, and 7.2 of float32's 24, of which the order in
# which a batch is summed leaves about four.
DIGITS = {"bfloat16": 2, "float32": 4}
KEY = "aliases_file"  # of the config


@dataclass(frozen=True)
class Target:
    """What answers a request. `deployment`: the always loaded model behind it, None where it is loaded on demand."""

    name: str  # of the model that an alias stands for
    deployment: str | None
    adapter: str | None
    folder: str | None = None  # of a model that is in no config, where an alias of the file stands for one


class Names:
    """All that a request may ask for. Only names of the config and the operator's alias file ever become paths."""

    def __init__(self, spec: ServeRun) -> None:
        self._spec = spec
        self._created = int(time.time())
        self._file = None if spec.aliases_file is None else Path(spec.aliases_file)
        self._seen: tuple[int, int] | None = None  # time and size of the file as it was read
        self._from_file: Mapping[str, str] = {}
        self._writing = threading.Lock()

    @property
    def aliases(self) -> dict[str, str]:
        """Name -> model, or model folder. The file is read again when it has changed; one that is broken changes
        nothing."""
        if self._file is not None and (now := stamp(self._file)) != self._seen:
            try:
                self._from_file = read_aliases(self._file, KEY)
            except UserError:
                return {**self._spec.aliases, **self._from_file}
            self._seen = now
        shadowed = {**self._spec.aliases, **self._from_file}
        return {name: model for name, model in shadowed.items() if name not in self._spec.models}

    def target(self, name: str) -> Target:
        """Raises ApiError 404 with the names that there are."""
        aliases = self.aliases
        model = aliases.get(name, name)
        spec = self._spec.models.get(model)
        if spec is not None:
            if spec.adapter_of is not None:
                return Target(model, spec.adapter_of, model)
            return Target(model, None if spec.on_demand else model, None)
        if name in aliases:
            return Target(name, None, None, folder=model)
        known = ", ".join([*self._spec.models, *aliases])
        raise ApiError(404, f"there is no model {name!r}; known: {known}", param="model", code="model_not_found")

    def listing(self) -> ModelList:
        entries = [
            ServedModel(
                id=name,
                created=self._created,
                kind="adapter" if spec.adapter_of else "model",
                root=spec.adapter_of,
                on_demand=spec.on_demand,
                digits=self._digits(name),
                guardrail=self._hidden(name),
            )
            for name, spec in self._spec.models.items()
        ]
        for alias, model in self.aliases.items():
            known = self._spec.models.get(model)
            shown = model if known is not None else Path(model).name
            on_demand = known is None or known.on_demand
            entries.append(
                ServedModel(
                    id=alias, created=self._created, kind="alias", root=shown, on_demand=on_demand,
                    digits=self._digits(model), guardrail=self._hidden(model),
                )
            )  # fmt: skip
        return ModelList(data=entries)

    def entry(self, name: str) -> ServedModel:
        """Raises ApiError 404 as `target` does."""
        self.target(name)
        return next(each for each in self.listing().data if each.id == name)

    def _digits(self, model: str) -> int:
        return DIGITS[self._spec.engine_of(model).dtype]

    def _hidden(self, model: str) -> str | None:
        """What a model of the config, or a folder, hides; an adapter has its base's guardrail."""
        spec = self._spec.models.get(model)
        if spec is None:
            return not_removed(ModelSpec(source=model))
        base = None if spec.adapter_of is None else not_removed(self._spec.models[spec.adapter_of].model)
        return base or not_removed(spec.model)

    def promote(self, alias: str, model: str) -> None:
        """Let the alias stand for a model of the config, from the next request on. Raises ApiError."""
        if re.fullmatch(NAME, alias) is None:
            raise ApiError(400, f"{alias!r} is no name; use letters, digits and . _ : + -", param="name")
        if alias in self._spec.models:
            raise ApiError(409, f"{alias} is a model's name; choose another alias", param="alias")
        if model not in self._spec.models:
            known = ", ".join(self._spec.models)
            raise ApiError(404, f"there is no model {model!r}; known: {known}", param="model", code="model_not_found")
        self._write(alias, model)

    def forget(self, alias: str) -> None:
        """Take the alias out of the file; one of the config then stands for what the config says. Raises ApiError."""
        if alias not in self.aliases:
            raise ApiError(404, f"there is no alias {alias!r}", param="name", code="alias_not_found")
        if self._file is not None and alias not in self._from_file:
            raise ApiError(409, f"{alias} is an alias of the server's config; take it out there", param="name")
        self._write(alias, None)

    def _write(self, alias: str, model: str | None) -> None:
        if self._file is None:
            raise ApiError(409, "this server has no aliases_file; name one in its config", code="no_aliases_file")
        with self._writing:
            set_alias(self._file, alias, model, KEY)
