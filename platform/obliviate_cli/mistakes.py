"""A mistake that shows only after the config was read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from obliviate.errors import UserError


@contextmanager
def in_file(config: Path, overrides: Sequence[str] | None) -> Iterator[None]:
    """Whose message begins with a key gets the file that the key stands in before it, as mistakes have that are found
    while the config is read."""
    try:
        yield
    except UserError as error:
        from obliviate.config_file import with_file  # brings YAML and pydantic, which `--help` does not wait for

        raise UserError(with_file(config, overrides or (), str(error))) from error


def names_file(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose mistakes name the file given as its `config`."""

    @wraps(command)
    def named(**given: Any) -> None:  # Typer gives every argument by its name
        with in_file(given["config"], given.get("overrides")):
            command(**given)

    return named
