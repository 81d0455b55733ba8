"""The disk that runs, ledger and certificates lie on has no room left at a random moment: one line says so, and the
same command, given again where there is room, ends with what an undisturbed one ends with."""

import json
import re
from pathlib import Path
from random import Random

import pytest

from chaos import disks
from chaos.conftest import Undisturbed
from chaos.quick import PROCESSES, Quick, forked
from chaos.scenes import Scene, Scenes
from chaos.tally import Tally

KIND = "disk"
SIZES = 2


def on_a_small_disk(scene: Scene, outcome: Path, room: float | None) -> None:
    """The target of a process: the command on a disk with this share of the room that it takes, and again with all."""
    try:
        disks.own_mounts()
        disks.mount(scene.folder)
    except OSError as error:
        outcome.write_text(json.dumps({"refused": str(error)}))
        return
    scene.clear()
    began = disks.used(scene.folder)
    found = {}
    if room is None:
        assert forked(scene) == 0
        found = {"takes": disks.used(scene.folder) - began}
    else:
        disks.resize(scene.folder, began + int(room))
        found = {"code": forked(scene), "said": Quick(scene).said}
        disks.resize(scene.folder)
        found |= {"again": forked(scene), "then": Quick(scene).said, "results": scene.results}
    outcome.write_text(json.dumps(found))


def tried(scene: Scene, tmp_path: Path, room: float | None) -> dict[str, object]:
    outcome = tmp_path / "outcome.json"
    process = PROCESSES.Process(target=on_a_small_disk, args=(scene, outcome, room))
    process.start()
    process.join()
    found: dict[str, object] = json.loads(outcome.read_text())
    return found


@pytest.mark.parametrize("name", ["evaluate", "compare", "attack", "request_run"])
def test_a_disk_is_full(
    scenes: Scenes, undisturbed: Undisturbed, tally: Tally, random: Random, tmp_path: Path, name: str
) -> None:
    scene = scenes[name]
    _, expected = undisturbed(scene)
    whole = tried(scene, tmp_path, None)
    fault = f"full, `{scene.verb}`"
    if "refused" in whole:
        tally.skip(KIND, fault, f"no disk of one's own: {whole['refused']}")
    failed = 0
    while failed < SIZES:
        found = tried(scene, tmp_path, random.uniform(0, float(str(whole["takes"]))))
        if found["code"] == 0:  # what it takes is not all that is left
            continue
        failed += 1
        with tally.tried(KIND, fault):
            said = str(found["said"])
            last = said.strip().splitlines()[-1]
            assert "Traceback" not in said, f"a traceback, then: {last}\n{said}"
            assert (found["code"], last.startswith("error: ")) == (2, True), f"{found['code']}: {last}"
            assert re.search("No space left on device|the disk is full", last), last
            assert found["again"] == 0, found["then"]
            assert found["results"] == expected
