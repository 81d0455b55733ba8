"""A disk changes or loses a file of a command that was killed, or of one that has ended: the same command makes what it
held again and ends with what an undisturbed one ends with, or, where it reads the file no more, `verify` names it."""

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from chaos.conftest import Undisturbed
from chaos.quick import Quick
from chaos.scenes import Scene, Scenes
from chaos.tally import Tally
from damage import WAYS
from obliviate.runs import LOCK_FILE
from obliviate_recipes.verify import verify
from recipes import Told

KIND = "files"
TIMES = 1


def any_file(scene: Scene, random: Random) -> Path | None:
    """Of the runs; each kind of a file as likely as another, though there are more answers than models."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(scene.runs.rglob("*")):
        if path.is_file() and path.stat().st_size and path.name != LOCK_FILE:
            kinds.setdefault(f"{path.parent.name.split('-')[0]} {path.suffix}", []).append(path)
    return random.choice(kinds[random.choice(sorted(kinds))]) if kinds else None


def named(scene: Scene, path: Path) -> bool:
    """By `obliviate verify`."""
    told = Told()
    return not verify([scene.runs], told) and path.name in told.text


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ["compare", "attack"])
def test_a_file_is_damaged_once_all_is_done(
    scenes: Scenes,
    undisturbed: Undisturbed,
    tally: Tally,
    random: Random,
    name: str,
    way: Callable[[Path], None],
) -> None:
    scene = scenes[name]
    _, expected = undisturbed(scene)
    scene.clear()
    assert Quick(scene).run() == 0
    for _ in range(TIMES):
        path = any_file(scene, random)
        assert path is not None
        way(path)
        with tally.tried(KIND, f"{way.__name__}, after `{scene.verb}`"):
            again = Quick(scene)
            assert again.run() == 0, again.said
            if scene.results != expected:
                assert named(scene, path), f"{path.parent.name}/{path.name}"
                scene.clear()
                assert Quick(scene).run() == 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ["compare", "attack", "request_run"])
def test_a_file_is_damaged_in_the_middle(
    scenes: Scenes,
    undisturbed: Undisturbed,
    tally: Tally,
    random: Random,
    name: str,
    way: Callable[[Path], None],
) -> None:
    scene = scenes[name]
    whole_s, expected = undisturbed(scene)
    tried = 0
    while tried < TIMES:
        scene.clear()
        victim = Quick(scene)
        victim.process.start()
        time.sleep(random.uniform(0, whole_s))
        victim.process.kill()
        victim.process.join()
        path = any_file(scene, random)
        if path is None:
            continue
        tried += 1
        way(path)
        with tally.tried(KIND, f"{way.__name__}, in the middle of `{scene.verb}`"):
            again = Quick(scene)
            assert again.run() == 0, f"{path.parent.name}/{path.name}: {again.said[-600:]}"
            results = scene.results
            assert results == expected or named(scene, path), f"{path.parent.name}/{path.name}"
