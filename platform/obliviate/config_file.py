"""A run's whole config: one YAML file, at most one `base:` under it, overrides from the command line.

The record of a run (run.json) is the config that it was made with.
Unknown keys are errors, and every error is one line that names the file, the key, the value and the fix.
Imports no torch: a typo is answered at once.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails

from obliviate import storage
from obliviate.errors import UserError
from obliviate.runs import RUN_FILE
from obliviate.schema import Spec


class RunSpec(Spec):
    """A whole config file: what `load` reads."""

    @classmethod
    def long_form(cls, values: Any) -> Any:
        """`values` with its short forms written out, so that overrides reach into them; else as it is."""
        return values

    @model_validator(mode="before")
    @classmethod
    def _long_form(cls, values: Any) -> Any:
        return cls.long_form(values)


R = TypeVar("R", bound=RunSpec)
S = TypeVar("S", bound=Spec)
NAMING = ("type", "import")  # the keys that say what a mapping is: the second, of classes that are not ours


def load(kind: type[R], path: Path, overrides: Sequence[str] = ()) -> R:
    """The config of `path` with `key.sub=value` overrides. Raises UserError."""
    values = _read_one(path)
    where = str(path)
    if "base" in values:
        base = values.pop("base")
        if not isinstance(base, str):
            raise UserError(f"{path}: base: {base!r} is no file name; give one, relative to this file's folder")
        values = _over_base(kind, path.parent / base, values)
        where = f"{path} (base {base})"
    return build(kind, values, overrides, where=where)


def build(kind: type[R], values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str) -> R:
    """Validate `values`, after the overrides, as a `kind`; `where` is named in errors. Raises UserError."""
    try:
        tree: dict[str, Any] = _plain(kind.long_form(values))
        for override in overrides:
            _override(tree, override)
            tree = _plain(kind.long_form(tree))
        return kind.model_validate(tree)
    except (ValidationError, UserError) as error:
        message = explain(kind, error) if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{where}: {' '.join(message.split())}") from error  # keys and values may hold line breaks


def parse(kind: type[S], record: Any, where: str) -> S:
    """One record of a file as a `kind`; `where` it stands is named in errors. Raises UserError."""
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{where}: {' '.join(explain(kind, error).split())}") from error


def files(path: Path) -> list[Path]:
    """The config file and, where it names one, its base. Raises UserError."""
    base = _read_one(path).get("base")
    return [path, path.parent / base] if isinstance(base, str) else [path]


def read(path: Path) -> dict[str, Any]:
    """The file's keys over its base's, as they are written: nothing is checked, short forms stay short."""
    values: dict[str, Any] = {}
    for file in reversed(files(path)):
        values = merge(values, _read_one(file))
    return values


def with_file(path: Path, overrides: Sequence[str], message: str) -> str:
    """A message that begins with a key, after the name of the file that has the key: the config, or its base.

    As it is where neither has it, where the command line gives it, and where the message begins with something else,
    such as the key with the value that it came to: that may be a default.
    """
    named = message.partition(":")[0]
    keys = named.split(".")
    given = [override.partition("=")[0].split(".") for override in overrides]
    if (
        "=" in named
        or message.startswith(str(path))
        or any(keys[: len(each)] == each or each[: len(keys)] == keys for each in given)
    ):
        return message
    depths = {file: _depth(_read_one(file), keys) for file in files(path)}
    nearest = max(depths, key=lambda file: depths[file])  # of equally near ones the config, which is over its base
    return f"{nearest}: {message}" if depths[nearest] else message


def _depth(tree: Any, keys: Sequence[str]) -> int:
    """How many of the keys, one below the other, are in the tree."""
    for depth, key in enumerate(keys):
        if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, dict) and key in tree:
            tree = tree[key]
        else:
            return depth
    return len(keys)


class _Yaml(yaml.SafeLoader):
    """YAML takes the last of two equal keys; here it is an error, because the first would be silently ignored. It also
    takes half of a character, which no file can hold; two halves that JSON wrote as such are one."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        text = super().construct_scalar(node)
        try:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{text!r} holds half of a character; write it whole", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice; keep one of them", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


def _read_one(path: Path) -> dict[str, Any]:
    here = storage.fetch(storage.local(path))
    try:
        values = yaml.load(here.read_text(encoding="utf-8"), _Yaml)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; configs/ has ready ones") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; give a YAML file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {_yaml_problem(error)}") from error
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise UserError(f"{path}: {found}; give keys and values, as the files in configs/ do")
    return values["config"] if path.name == RUN_FILE and isinstance(values.get("config"), dict) else values


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"not YAML: {' '.join(str(error).split())}"
    return f"line {mark.line + 1}, column {mark.column + 1}: not YAML: {getattr(error, 'problem', '')}"


def _over_base(kind: type[RunSpec], path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """`values` over those of the file `path`. A base has no base."""
    under = kind.long_form(_read_one(path))
    if "base" in under:
        raise UserError(f"{path}: base: a base may not have a base; put its keys into one file")
    if isinstance(values.get("method"), str):  # a short form names all terms, as it does on the command line
        under.pop("regularizers", None)
    return merge(under, values)


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of both, those of `over` before those of `under`, all the way down."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        # A mapping of another `type` is another thing: keys of the old one would be unknown to it.
        same = both and all(value.get(name, merged[key].get(name)) == merged[key].get(name) for name in NAMING)
        merged[key] = merge(merged[key], value) if same else value
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, last = key.split(".")
    if not equals or not all((*path, last)):
        raise UserError(f"override {override!r}: write it as key=value, for example optim.learning_rate=1e-5")
    try:
        value = yaml.load(text, _Yaml)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value: {_yaml_problem(error)}") from error
    node: Any = tree
    for step in path:
        if isinstance(node, list):
            node = node[_index(node, step, override)]
        else:
            node[step] = {} if node.get(step) is None else node[step]  # model.lora.rank=4 over model.lora: null
            node = node[step]
        if not isinstance(node, dict | list):
            raise UserError(f"override {override!r}: {step} is {node!r}, which has no keys")
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value
        if key == "method" and isinstance(value, str):
            tree.pop("regularizers", None)


def _index(node: list[Any], step: str, override: str) -> int:
    if not step.isdecimal() or int(step) >= len(node):
        raise UserError(f"override {override!r}: {step!r} is not an entry of a list of {len(node)}; count from 0")
    return int(step)


def _plain(value: Any) -> Any:
    """A copy of lists and mappings all the way down, so that overrides never change the caller's."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def explain(kind: type[Spec], error: ValidationError) -> str:
    """The first mistake in one line: key, value, what is wrong, and the nearest right key."""
    errors = _mistakes(error)
    # An unknown key before all else: it is often the one that another error misses.
    first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    key, types = _walk(kind, first["loc"])
    tags = [tag for each in types if (tag := _tag(each)) is not None]
    value = first["input"]
    match first["type"]:
        case "extra_forbidden":
            _, beside = _walk(kind, first["loc"][:-1])
            message = f"unknown key; {nearest(str(first['loc'][-1]), [name for t in beside for name in _fields(t)])}"
        case "missing":
            message = "missing; add it"
        case "union_tag_invalid":
            key, tag = f"{key}.type", str(value["type"])
            known = first["ctx"]["expected_tags"].replace("'", "").split(", ")
            message = f"{tag!r} is not known; {nearest(tag, known)}"
        case "union_tag_not_found":
            message = f"has no type; add one of {', '.join(tags)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            message = f"is {value!r}; give keys and values" + (f", type among them: {', '.join(tags)}" if tags else "")
        case "tuple_type" | "list_type":
            message = f"is {value!r}; give a list"
        case "too_short":
            message = f"has {len(value) or 'none'}; give at least {first['ctx']['min_length']}"
        case _:
            shown = "" if isinstance(value, dict | list | Spec) else f" (got {value!r})"
            message = first["msg"].removeprefix("Value error, ").replace("Input should", "should", 1) + shown
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{key + ': ' if key else ''}{message}{more}"


def _mistakes(error: ValidationError) -> list[ErrorDetails]:
    """Without lists that are too short only because an element of them is wrong."""
    errors = error.errors()
    return [
        each
        for each in errors
        if each["type"] != "too_short"
        or not any(len(other["loc"]) > len(at := each["loc"]) and other["loc"][: len(at)] == at for other in errors)
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """The mend of a name that is not known: the one that is most like it, or all there are."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _walk(kind: type[Spec], location: Sequence[str | int]) -> tuple[str, list[Any]]:
    """The dotted key that the user wrote to get to `location`, and the types that may stand there."""
    keys: list[str] = []
    types: list[Any] = [kind]
    for part in location:
        if len(types) > 1:  # a discriminated union: pydantic puts the member's tag here, which is no key
            types = [each for each in types if _tag(each) == part]
            continue
        keys.append(str(part))
        types = [member for each in types for member in _members(_below(each, part))]
    return ".".join(keys), types


def _below(annotation: Any, part: str | int) -> Any:
    """The type of a spec's field, of a mapping's values, or of a list's entries; None where there is none."""
    if _fields(annotation):
        field = annotation.model_fields.get(part)
        return None if field is None else field.annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if arguments else None


def _members(annotation: Any) -> list[Any]:
    """Those of a union, and of the unions in it, without None; any other type alone."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [] if annotation in (None, type(None)) else [annotation]


def _fields(annotation: Any) -> list[str]:
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, Spec) else []


def _tag(annotation: Any) -> str | None:
    return annotation.model_fields["type"].default if "type" in _fields(annotation) else None
