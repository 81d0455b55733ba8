"""The same command twice at the same time, in the same folder: one of them, or both in turn, make what one alone makes,
and whichever finds the other at work says so in one line."""

import time
from random import Random

import pytest

from chaos.conftest import Undisturbed
from chaos.quick import Quick
from chaos.scenes import Scenes
from chaos.tally import Tally

KIND = "two at once"
TIMES = 2


@pytest.mark.parametrize("name", ["compare", "attack", "request_run"])
def test_two_at_once(scenes: Scenes, undisturbed: Undisturbed, tally: Tally, random: Random, name: str) -> None:
    scene = scenes[name]
    whole_s, expected = undisturbed(scene)
    for _ in range(TIMES):
        scene.clear()
        with tally.tried(KIND, f"`{scene.verb}`"):
            first, second = Quick(scene), Quick(scene, "second")
            first.process.start()
            time.sleep(random.uniform(0, whole_s / 2))
            second.process.start()
            for each in (first, second):
                code = each.wait()
                assert "Traceback" not in each.said, each.said[-600:]
                assert code == 0 or (code == 2 and "another process is writing this run" in each.said), each.said
            again = Quick(scene)
            assert again.run() == 0, again.said
            assert scene.results == expected
