"""A run's whole config: one YAML file, at most one `base:` under it, overrides from the command line.

Unknown keys are errors, and every error is one line that names the file, the key, the value and the fix.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from obliviate.data import DataSpec
from obliviate.errors import UserError
from obliviate.methods import (
    FORGET_TYPES,
    REGULARIZER_TYPES,
    AnyForgetSpec,
    AnyRegularizerSpec,
    Pass,
    Term,
    expand,
    union_of_needs,
)
from obliviate.schema import ClusterSpec, ModelSpec, OptimSpec, Spec

# The members of the discriminated unions, by the tag that pydantic puts into an error's location.
TAGGED: dict[str, type[Spec]] = {
    **FORGET_TYPES,
    **REGULARIZER_TYPES,
    **{cls.model_fields["type"].default: cls for cls in get_args(get_args(DataSpec)[0])},
}


class TrainingRun(Spec):
    """What fine-tuning and unlearning share."""

    name: str = ""  # part of the run's folder name; empty: made from method and data
    model: ModelSpec
    data: DataSpec
    optim: OptimSpec = OptimSpec()
    cluster: ClusterSpec = ClusterSpec()
    seed: int = Field(0, ge=0)
    runs: str = "runs"  # folder of all runs; on several nodes it must be shared between them


class FinetuneRun(TrainingRun):
    """Teaches a model the data: all of it (what must forget), or all but the forget set (the retain model)."""

    train_on: Literal["all", "retain"] = "all"


class UnlearnRun(TrainingRun):
    """One forget objective with any number of weighted regularizers."""

    method: AnyForgetSpec
    regularizers: tuple[AnyRegularizerSpec, ...] = ()
    pairing: Literal["fresh", "fixed"] = (
        "fresh"  # retain item and refusal of a forget item: new each epoch, or the same
    )
    refusals: str | None = None  # text file, one refusal a line; None: the project's own hundred

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, values: Any) -> Any:
        return expand_method(values)

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self.method, *self.regularizers)

    @property
    def label(self) -> str:
        return "+".join(term.type for term in (self.method, *self.regularizers)).upper()

    @property
    def needs_retain(self) -> bool:
        of_retain = (Pass.RETAIN, Pass.RETAIN_IDK, Pass.FORGET_MISMATCH)
        return any(each in of_retain for each in union_of_needs(self.terms))


def expand_method(values: Any) -> Any:
    """`method: npo+gd` (or `method: npo`) to its long form; anything else as it is."""
    if isinstance(values, Mapping) and isinstance(values.get("method"), str):
        short = expand(values["method"])
        if values.get("regularizers"):
            if short["regularizers"]:
                raise UserError(
                    f"regularizers: given twice, as {values['method']!r} in method and as a list; keep one of them"
                )
            short.pop("regularizers")
        return {**values, **short}
    return values


R = TypeVar("R", bound=Spec)


def load(kind: type[R], path: Path | None, overrides: Sequence[str] = ()) -> R:
    """The config of `path` (None: nothing but the overrides) with `key.sub=value` overrides. Raises UserError."""
    return build(kind, {} if path is None else read_yaml(path), overrides, where=str(path or "command line"))


def build(kind: type[R], values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str) -> R:
    """Validate `values`, after the overrides, as a `kind`; `where` is named in errors."""
    tree: dict[str, Any] = _plain(expand_method(dict(values)))
    for override in overrides:
        _override(tree, override)
        tree = _plain(expand_method(tree))
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(kind, error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's mapping, laid over that of the file its `base:` names (relative to it); a base has no base."""
    values = _read_one(path)
    base = values.pop("base", None)
    if base is None:
        return values
    under = _read_one(path.parent / base)
    if "base" in under:
        raise UserError(f"{path.parent / base}: base: a base may not have a base; put its keys into one file")
    return _merge(under, values)


def _read_one(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; `ls configs/` shows the ready ones") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {type(values).__name__}, not keys and values; see configs/ for examples")
    return values


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        # A mapping of another `type` is another thing: keys of the old one would be unknown to it.
        same = both and value.get("type", merged[key].get("type")) == merged[key].get("type")
        merged[key] = _merge(merged[key], value) if same else value
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: write it as key=value, for example optim.learning_rate=1e-5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not YAML: {' '.join(str(error).split())}") from error
    *path, last = key.split(".")
    node: Any = tree
    for step in path:
        node = _list_entry(node, step, override) if isinstance(node, list) else node.setdefault(step, {})
        if not isinstance(node, dict | list):
            raise UserError(f"override {override!r}: {step} is {node!r}, which has no keys")
    if isinstance(node, list):
        _list_entry(node, last, override)
        node[int(last)] = value
    elif key == "method" and isinstance(value, str):
        tree.pop("regularizers", None)
        tree["method"] = value
    else:
        node[last] = value


def _list_entry(node: list[Any], step: str, override: str) -> Any:
    if not step.isdigit() or int(step) >= len(node):
        raise UserError(f"override {override!r}: {step!r} is not an entry of a list of {len(node)}; count from 0")
    return node[int(step)]


def _plain(value: Any) -> Any:
    """A copy of lists and mappings all the way down, so that overrides never change the caller's."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _explain(kind: type[Spec], error: ValidationError) -> str:
    """The first mistake in one line: key, value, what is wrong, and the nearest right key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and part in _union_tags(first)))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_beside(kind, first["loc"])
        near = get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"{key}: unknown key; {hint}{more}"
    if first["type"] == "missing":
        return f"{key}: missing; add it{more}"
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    shown = "" if isinstance(value, dict | list | Spec) else f" (got {value!r})"
    return f"{key + ': ' if key else ''}{message}{shown}{more}"


def _union_tags(error: Any) -> set[str]:
    """Parts of a location that are a discriminated union's tag, not a key the user wrote: method.npo.beta."""
    return {*TAGGED} - {str(error["loc"][-1])}


def _fields_beside(kind: type[Spec], location: tuple[Any, ...]) -> list[str]:
    """The fields of the model that the last key of `location` was looked for in."""
    model: Any = kind
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if part in TAGGED:
            model = TAGGED[part]
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        nested = [each for each in candidates if isinstance(each, type) and issubclass(each, Spec)]
        model = nested[0] if nested else model
    return list(model.model_fields)
