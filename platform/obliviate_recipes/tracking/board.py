"""What every tracker is given: runs that begin, their steps, and what they end in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from obliviate.errors import UserError
from obliviate.tracking import TrackingSpec


@dataclass(frozen=True)
class Begun:
    """A run that a tracker is to show."""

    id: str  # the same for one that is resumed, another for one that is made again
    name: str
    kind: str  # unlearn, evaluate, ...
    group: str  # the job that it is a part of
    config: Mapping[str, Any]  # nested, with the hashes of its inputs and the versions of the code
    resumed: bool = False  # whether it was begun by a process that has died


@dataclass(frozen=True)
class Ended:
    """What a run came to."""

    figures: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)  # name -> where its model lies, for example
    files: Sequence[Path] = ()  # reports
    failed: bool = False


class Log(Protocol):
    """One run at a tracker."""

    def step(self, step: int, values: Mapping[str, float]) -> None: ...

    def end(self, ended: Ended) -> None: ...

    def leave(self) -> None:
        """Of a run that did not end: it is resumed later, or never."""


class Board(Protocol):
    """A tracker. Its errors are its library's own: whoever calls tells them."""

    def open(self, begun: Begun) -> Log: ...


def open_board(spec: TrackingSpec, runs: Path) -> Board:
    """Raises UserError where it cannot be used: told before anything is made."""
    module = import_module(f"{__package__}.on_{spec.type}")
    board: Board = module.open_board(spec, runs)
    return board


def library(name: str) -> ModuleType:
    """Raises UserError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"tracking.type: {name}: the library is not installed; pip install 'obliviate[{name}]', or tracking=null"
        ) from error


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def flat(values: Any, key: str = "", separator: str = "/") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and lists, each with the keys that lead to it."""
    below: Any = None
    if isinstance(values, Mapping):
        below = values.items()
    elif isinstance(values, list | tuple):
        below = enumerate(values)
    if below is None:
        yield key, values
        return
    for name, value in below:
        yield from flat(value, f"{key}{separator}{name}" if key else str(name), separator)


def parameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The config as trackers compare it: dotted keys, and numbers, booleans and texts alone."""
    return {key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in flat(config, separator=".")}  # fmt: skip
