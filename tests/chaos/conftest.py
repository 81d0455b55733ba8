"""One seed, one tally, and one undisturbed run of each command for the whole suite."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from chaos.quick import Quick, load
from chaos.scenes import Scene, Scenes
from chaos.tally import Tally
from chaos.traces import Traces, scratch

SEED = "CHAOS_SEED"
WRITTEN = pytest.StashKey[str]()
Undisturbed = Callable[[Scene], tuple[float, dict[str, str]]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(config.stash.get(WRITTEN, ""))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """A run of all tests writes the document."""
    found = Tally(int(os.environ.get(SEED, "0")))
    yield found
    request.config.stash[WRITTEN] = found.written()
    if not (request.config.option.keyword or any("::" in each or each.endswith(".py") for each in request.config.args)):
        found.write()


@pytest.fixture
def random(tally: Tally, request: pytest.FixtureRequest) -> Random:
    """A test's own, so that one test's tries do not depend on another's."""
    return Random(f"{tally.seed} {request.node.name}")


@pytest.fixture(scope="session")
def temporary() -> Iterator[Path]:
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> Scenes:
    return Scenes(tmp_path_factory.mktemp("scenes"), temporary)


@pytest.fixture(scope="session")
def undisturbed(scenes: Scenes) -> Undisturbed:
    """What a command makes that nothing happens to, and in how many seconds; made once."""
    known: dict[str, tuple[float, dict[str, str]]] = {}

    def undisturbed(scene: Scene) -> tuple[float, dict[str, str]]:
        if scene.verb not in known:
            load()
            scene.clear()
            began_s = time.monotonic()
            assert (quick := Quick(scene)).run() == 0, quick.said
            known[scene.verb] = time.monotonic() - began_s, scene.results
            assert scene.results
        return known[scene.verb]

    return undisturbed


@pytest.fixture(autouse=True)
def _nothing_is_left(tally: Tally, temporary: Path) -> Iterator[None]:
    """No process outlives its command. What a process that was killed had no time to remove is counted."""
    traces = Traces(temporary)
    yield
    left = traces.left()
    tally.left += left
    assert not [each for each in left if each.startswith("process")]
