"""The process of a command dies at a random moment, of a signal that it can catch or of one that it cannot: the same
command, given again, ends with what an undisturbed one ends with."""

import os
import signal
import time
from contextlib import suppress
from random import Random

import pytest

from chaos.conftest import Undisturbed
from chaos.quick import Quick
from chaos.scenes import Scenes
from chaos.tally import Tally

KIND = "driver"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = 2


@pytest.mark.parametrize("end", SIGNALS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", ["evaluate", "compare", "attack", "request_run"])
def test_a_driver_dies(
    scenes: Scenes, undisturbed: Undisturbed, tally: Tally, random: Random, name: str, end: signal.Signals
) -> None:
    scene = scenes[name]
    whole_s, expected = undisturbed(scene)
    died = 0
    while died < MOMENTS:
        scene.clear()
        victim = Quick(scene)
        victim.process.start()
        time.sleep(random.uniform(0, whole_s))
        with suppress(ProcessLookupError):  # it had ended already
            os.kill(victim.pid, end)
        code = victim.wait()
        if code == 0:
            continue
        died += 1
        with tally.tried(KIND, f"{end.name}, `{scene.verb}`"):
            assert code in {-end, 128 + end}, f"exit code {code}: {victim.said[-300:]}"
            assert "Traceback" not in victim.said, victim.said[-300:]
            again = Quick(scene)
            assert again.run() == 0, again.said
            assert scene.results == expected
