"""Others' methods, metrics and data: classes that a config names by their place, or by the name under which an
installed package offers them.

    method: {type: custom, import: package.module.Class, ...}   # importable, or in the working directory
    method: {type: capped, ...}                                 # an entry point of the group `obliviate.methods`
"""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module, invalidate_caches
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pathlib import Path
from typing import Any

import pydantic
from pydantic import GetCoreSchemaHandler, PydanticUserError, SerializationInfo, ValidationError
from pydantic_core import PydanticKnownError, core_schema

from obliviate.config_file import explain
from obliviate.errors import UserError
from obliviate.runs import content_hash
from obliviate.schema import Spec

CUSTOM = "custom"  # the `type` that says: the class that `import` names
NAME = re.compile("[a-z][a-z0-9_]*")  # figures, folders and the short form "npo+gd" go by it
OURS = ("obliviate", "obliviate_recipes", "obliviate_cli", "obliviate_eval", "obliviate_serve")
NOBODYS = ("builtins", "abc", "typing", "pydantic")  # of which every class is made
# What running a module of somebody else's may raise.
MISTAKES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
            SyntaxError, TypeError, ValueError)  # fmt: skip
# Of the environment: entry points of the process that started this one, where their package is not installed.
ENTRY_POINTS_VARIABLE = "OBLIVIATE_ENTRY_POINTS"
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # of the environment: this process is a job's driver
# What this process has let in: top-level module -> its file or folder, and (group, name) -> entry point.
_modules: dict[str, Path] = {}
_used: dict[tuple[str, str], EntryPoint] = {}


@dataclass(frozen=True, eq=False)
class Door:
    """Metadata of a closed union's annotation: lets classes of others' in beside ours, and writes them so that they
    are found again."""

    group: str  # of entry points
    bases: tuple[type[Spec], ...]
    ours: Mapping[str, type[Spec]]  # the union's: `type` -> class
    taken: Collection[str]  # names that nobody else may have
    told: tuple[str, ...] = ()  # what a class may say of itself that readers of a written config go by without it

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self._read,
            handler(source),
            serialization=core_schema.wrap_serializer_function_ser_schema(self._write, info_arg=True),
        )

    def _read(self, value: Any, ours: Callable[[Any], Any]) -> Any:
        if isinstance(value, self.bases) and not is_ours(type(value)):
            self._checked(type(value))
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            return ours(value)
        cls = self.class_of(value)
        if is_ours(cls):
            return ours(value)
        try:
            return cls.model_validate(
                {key: each for key, each in value.items() if key not in ("type", "import", *self.told)}
            )
        except ValidationError as error:
            raise UserError(explain(cls, error)) from error

    def _write(self, value: Any, ours: Callable[[Any], Any], info: SerializationInfo) -> Any:
        cls = type(value)
        if is_ours(cls):
            return ours(value)
        told = {name: said for name in self.told if (said := getattr(cls, name))}
        return {"import": f"{cls.__module__}.{cls.__name__}", **told, **value.model_dump(mode=info.mode)}

    def made_of(self, term: Mapping[str, Any]) -> Any:
        """An instance of the class that a config's mapping names. Raises UserError."""
        return self._read(term, lambda values: self.class_of(values).model_validate(values))

    def class_of(self, term: Mapping[str, Any]) -> type[Spec]:
        """The class of a config's `type`, and of its `import` where it has one. Raises UserError."""
        name = term["type"]
        if "import" in term:
            cls = self._checked(found_at(str(term["import"])))
            if name not in (CUSTOM, own := type_of(cls)):
                raise UserError(f"type: {name}: {term['import']} is called {own}; write type: {CUSTOM}")
            return cls
        if name == CUSTOM:
            raise UserError("import: missing; name the class there, as package.module.Class")
        offered = [each for each in _entry_points(self.group) if each.name == name]
        if name in self.ours and not offered:
            return self.ours[name]
        if not offered:
            expected = ", ".join(f"'{each}'" for each in self.known)
            tag = {"discriminator": "'type'", "tag": name, "expected_tags": expected}
            raise PydanticKnownError("union_tag_invalid", tag)
        return self._offered(offered)

    def knows(self, term: Mapping[str, Any]) -> bool:
        """Whether there is, or is said to be, a class of that name or at that place."""
        offered = any(each.name == term["type"] for each in _entry_points(self.group))
        return "import" in term or term["type"] in self.ours or offered

    @property
    def known(self) -> list[str]:
        """Names that a config may give: ours, then those of installed packages that keep what they promise."""
        return [*self.ours, *(name for name, (cls, _) in self.offers().items() if isinstance(cls, type))]

    def offers(self) -> dict[str, tuple[type[Spec] | str, str]]:
        """What installed packages offer here: name -> its class, or what is wrong with it, and where it comes from."""
        found: dict[str, tuple[type[Spec] | str, str]] = {}
        for name in dict.fromkeys(each.name for each in _entry_points(self.group)):
            offered = [each for each in _entry_points(self.group) if each.name == name]
            places = ", ".join(map(_place, offered))
            try:
                cls = found_at(_path(offered[0]))
                if not isinstance(cls, type) or issubclass(cls, self.bases) or not issubclass(cls, Spec):
                    found[name] = self._offered(offered), places
            except UserError as error:
                found[name] = str(error), places
        return found

    def _offered(self, offered: list[EntryPoint]) -> type[Spec]:
        first, *others = offered
        if others:
            places = " and ".join(map(_place, offered))
            raise UserError(f"{first.name}: {places} both offer it; uninstall one, or give type: {CUSTOM} and import")
        if first.name in self.taken:
            raise UserError(f"{first.name}: {_place(first)} offers it, and the name is ours; it needs another one")
        cls = self._checked(found_at(_path(first)))
        if type_of(cls) != first.name:
            raise UserError(f"{first.name}: {_path(first)} is called {type_of(cls)}; the entry point needs that name")
        _used[first.group, first.name] = first
        return cls

    def _checked(self, found: Any) -> type[Spec]:
        """Raises UserError for what is no complete class of the right kind, or has a name of ours."""
        path = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', found)}"
        if not (isinstance(found, type) and issubclass(found, self.bases)):
            wanted = " or ".join(f"{each.__module__}.{each.__name__}" for each in self.bases)
            raise UserError(f"import: {path}: is no {wanted}; subclass it")
        if isabstract(found):
            raise UserError(f"import: {path}: has no {', '.join(sorted(found.__abstractmethods__))}; define it")
        promised = [name for base in self.bases if issubclass(found, base) for name in base.__class_vars__]
        if missing := [name for name in promised if not hasattr(found, name)]:
            raise UserError(f"import: {path}: has no {', '.join(sorted(missing))}; give the class that text")
        name = type_of(found)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"import: {path}: type is {name!r}; give it a default of a-z, 0-9 and _")
        if name in self.taken or name == CUSTOM:
            raise UserError(f"import: {path}: type is {name!r}, which is ours; give it a name of its own")
        if "." in found.__qualname__:
            raise UserError(f"import: {path}: stands inside something else; move it to the top of its module")
        in_file = hasattr(module := sys.modules[_top(found)], "__path__") or getattr(module, "__file__", None)
        if not in_file or _top(found) == "__main__":  # of a script: elsewhere that name is another module
            raise UserError(
                f"import: {path}: stands in no module that workers could import; move it into a file of its own"
            )
        _modules[_top(found)] = _root(_top(found))
        return found


def by_name(name: str) -> dict[str, str]:
    """Of a name that stands alone: with dots in it, the place of a class."""
    return {"type": CUSTOM, "import": name} if "." in name else {"type": name}


def type_of(cls: type[Spec]) -> Any:
    return cls.model_fields["type"].default


def is_ours(cls: type) -> bool:
    return _top(cls) in OURS


def found_at(path: str) -> Any:
    """What stands at package.module.Class, the working directory being searched last. Raises UserError."""
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"import: {path}: is no place of a class; write it as package.module.Class")
    here = os.getcwd()
    if here not in sys.path:  # installed commands start without it
        sys.path.append(here)
    invalidate_caches()
    try:
        imported = import_module(module)
    except MISTAKES as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        what = f"neither installed nor in the working directory {here}" if missing else _told(error)
        raise UserError(f"import: {path}: {module} cannot be imported: {what}") from error
    try:
        return getattr(imported, name)
    except AttributeError as error:
        raise UserError(f"import: {path}: {imported.__file__} has no {name}") from error


def content(specs: Iterable[Spec]) -> str | None:
    """A hash of the Python files of the packages that others' classes among these, and their bases, stand in; None
    where all are ours."""
    classes = [cls for each in specs for cls in type(each).__mro__]
    tops = sorted({top for cls in classes if (top := _top(cls)) not in (*OURS, *NOBODYS)})
    return content_hash({top: _hashes(_root(top)) for top in tops}) if tops else None


def runtime_env() -> dict[str, Any]:
    """Of Ray's, for a driver: what its workers need. A job's has it all: `submit`, or its working directory, saw to it,
    and Ray wants no key of it named twice."""
    return {} if RAY_JOB in os.environ else packed()


def packed() -> dict[str, Any]:
    """The `py_modules` and `env_vars` by which processes elsewhere find the classes that were let in here."""
    files = [str(root) for root in _modules.values() if root.is_dir() or root.suffix == ".py"]
    names = [[each.group, each.name, each.value] for each in _used.values()]
    return {
        **({"py_modules": files} if files else {}),
        **({"env_vars": {ENTRY_POINTS_VARIABLE: json.dumps(names)}} if names else {}),
    }


def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return _listed(group, tuple(sys.path), os.environ.get(ENTRY_POINTS_VARIABLE, "[]"))


@cache
def _listed(group: str, path: tuple[str, ...], handed_down: str) -> tuple[EntryPoint, ...]:
    """Installed ones hide those handed down that are the same."""
    named = {(each.name, each.value): each for each in map(_of_group(group), json.loads(handed_down)) if each}
    return tuple((named | {(each.name, each.value): each for each in entry_points(group=group)}).values())


def _of_group(group: str) -> Callable[[list[str]], EntryPoint | None]:
    return lambda each: EntryPoint(group=each[0], name=each[1], value=each[2]) if each[0] == group else None


def _path(entry: EntryPoint) -> str:
    return f"{entry.module}.{entry.attr}"


def _place(entry: EntryPoint) -> str:
    return _path(entry) if entry.dist is None else f"{entry.dist.name} {entry.dist.version} ({_path(entry)})"


def _top(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _root(top: str) -> Path:
    """The folder of a package, or the file of a module."""
    module = sys.modules[top]
    return Path(next(iter(module.__path__)) if hasattr(module, "__path__") else str(module.__file__)).absolute()


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    return {file.relative_to(root.parent).as_posix(): sha256(file.read_bytes()).hexdigest() for file in files}


def _told(error: Exception) -> str:
    """With the place that it comes from."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if Path(pydantic.__file__).parent not in Path(frame.filename).parents][-1]
    said = error.message if isinstance(error, PydanticUserError) else error
    return f"{type(error).__name__}: {said} ({last.filename}, line {last.lineno})"
