from collections.abc import Iterator
from pathlib import Path

import pytest

from stores import bucket, on  # noqa: F401
from tiny import tiny_model_folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def process_group() -> Iterator[None]:
    """Of one worker, without Ray."""
    from obliviate.train.loop import single_process

    with single_process():
        yield
