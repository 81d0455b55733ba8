"""The clock jumps while a command works: it ends with what it ends with by a clock that does not."""

import pickle
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from chaos.conftest import Undisturbed
from chaos.quick import Quick
from chaos.scenes import ENDS_WITHIN_S, Scenes
from chaos.tally import Tally
from chaos.traces import environment

KIND = "clock"
JUMPS = {"a year ahead": "+365d", "a day back": "-1d"}


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("name", ["evaluate", "request_run"])
def test_the_clock_jumps(
    scenes: Scenes, undisturbed: Undisturbed, tally: Tally, random: Random, tmp_path: Path, name: str, jump: str
) -> None:
    scene = scenes[name]
    whole_s, expected = undisturbed(scene)
    fault = f"{jump}, `{scene.verb}`"
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        tally.skip(KIND, fault, "libfaketime is not installed")
    scene.clear()
    (clock := tmp_path / "clock").write_text("+0")
    (tmp_path / "scene").write_bytes(pickle.dumps(scene))
    faked = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    faked |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with tally.tried(KIND, fault):
        command = [sys.executable, "-m", "chaos.quick", str(tmp_path / "scene")]
        process = subprocess.Popen(command, env=environment(scene.scratch) | faked)
        while not scene.runs.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, whole_s))
        clock.write_text(JUMPS[jump])
        assert process.wait(ENDS_WITHIN_S) == 0, Quick(scene).said[-600:]
        assert scene.results == expected
