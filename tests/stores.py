"""An object store's stand-in, a folder used like a store, and the nodes that share it: each is a cache of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from obliviate import storage
from obliviate.runs import whole_folder

Node = Callable[[str], None]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    """Call with a node's name: from then on this process is on it."""

    def switch(node: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nodes" / node))

    switch("a")
    return switch


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"


def stored(bucket: str) -> dict[str, str]:
    """Key -> content."""
    root = Path(bucket.removeprefix("file://"))
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def write_model(bucket: str, weights: str, **more: str) -> Path:
    """As training exports one: into a run of this node's cache."""
    path = storage.local(f"{bucket}/run/model")
    with whole_folder(path) as temporary:
        for name, text in {"config.json": "{}", "weights": weights, **more}.items():
            (temporary / name).write_text(text)
    return path
