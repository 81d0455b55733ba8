"""Processes of a command's own Ray die: those that train and measure while it goes on, or all of them with the command,
which is given again. The results are those of the same command without Ray."""

import os
import signal
import time
from collections.abc import Callable
from random import Random

import psutil
import pytest

from chaos import disks
from chaos.conftest import Undisturbed
from chaos.scenes import ENDS_WITHIN_S, Scene, Scenes
from chaos.tally import Tally
from chaos.traces import marked
from obliviate.train.job import CHECKPOINTS
from obliviate.train.log import read_steps
from obliviate_recipes.stages.measure import ANSWERS
from processes import command

KIND = "Ray"
STEPS = 20 * 2  # of the scene `unlearn`
SMALL_BYTES = 64 << 20


def wait(so: Callable[[], bool], process: "psutil.Popen") -> None:
    """Raises AssertionError where the command ends before it is so."""
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    while not so():
        assert process.poll() is None, f"it ended too soon: {process.communicate()[0][-600:]}"
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def kill(scene: Scene, title: str) -> int:
    """How many processes of the scene's command, by their titles, were killed."""
    victims = [each for each in marked(scene.scratch) if title in command(each)]
    for each in victims:
        each.kill()
    return len(victims)


def steps(scene: Scene) -> int:
    return max((len(read_steps(run)) for run in scene.runs.glob("unlearn-*")), default=0)


def ended(scene: Scene, process: "psutil.Popen", expected: dict[str, str]) -> None:
    out, _ = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 0, out[-600:]
    assert scene.results == expected


def test_a_training_worker_dies_twice(scenes: Scenes, undisturbed: Undisturbed, tally: Tally, random: Random) -> None:
    """At a random step, and while a checkpoint is written, which happens after every step."""
    scene = scenes["unlearn"]
    _, expected = undisturbed(scene)
    scene.clear()
    first = random.randint(1, STEPS // 2)
    with (
        tally.tried(KIND, "SIGKILL, a training worker at a random step"),
        tally.tried(KIND, "SIGKILL, a training worker in the middle of a checkpoint"),
        scene.start() as process,
    ):
        wait(lambda: steps(scene) >= first, process)
        assert kill(scene, "RayTrainWorker") == 1
        wait(lambda: not any("RayTrainWorker" in command(each) for each in marked(scene.scratch)), process)
        wait(lambda: any(scene.runs.glob(f"*/{CHECKPOINTS}/.step_*/__0*")), process)
        assert kill(scene, "RayTrainWorker") == 1
        ended(scene, process, expected)


def test_an_engine_dies(scenes: Scenes, tally: Tally, random: Random) -> None:
    """Beside one that nothing happens to: what a process of its own says differs in the last bits."""
    scene = scenes["evaluate"]
    scene.clear()
    scene.finish()
    expected = scene.results
    scene.clear()
    chunks = random.randint(1, 8)
    with tally.tried(KIND, "SIGKILL, an engine of an evaluation"), scene.start() as process:
        wait(lambda: len(list(scene.runs.glob(f"*/{ANSWERS}/*.json"))) >= chunks, process)
        assert kill(scene, "ray::Replica") == 1
        ended(scene, process, expected)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_driver_dies_and_its_ray_with_it(
    scenes: Scenes, undisturbed: Undisturbed, tally: Tally, random: Random, end: signal.Signals
) -> None:
    """SIGINT goes to all of its group, as from a terminal, the others to the driver alone."""
    scene = scenes["unlearn"]
    _, expected = undisturbed(scene)
    scene.clear()
    with tally.tried(KIND, f"{end.name}, the driver"):
        with scene.start() as process:
            some = random.randint(0, STEPS - 1)
            wait(lambda: steps(scene) >= some, process)
            (os.killpg if end is signal.SIGINT else os.kill)(process.pid, end)
            out, _ = process.communicate(timeout=ENDS_WITHIN_S)
            assert process.returncode in {-end, 128 + end}, f"exit code {process.returncode}: {out[-300:]}"
            assert "Traceback" not in out, out[-600:]
        assert psutil.wait_procs(marked(scene.scratch), timeout=60)[1] == []
        scene.finish()
        assert scene.results == expected


def test_shared_memory_is_small(scenes: Scenes, undisturbed: Undisturbed, tally: Tally) -> None:
    """As a container has it unless it is told otherwise."""
    scene = scenes["unlearn"]
    _, expected = undisturbed(scene)
    scene.clear()
    small = f'mount -t tmpfs -o size={SMALL_BYTES} tmpfs /dev/shm && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", small, "sh"]
    if not disks.allowed():
        tally.skip(KIND, "/dev/shm of 64 MiB", "no disk of one's own")
    with tally.tried(KIND, "/dev/shm of 64 MiB"):
        scene.finish(prefix)
        assert scene.results == expected
