"""A mistake that shows only after the config was read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
