"""The lock files can be installed: resolved for each supported Python, without a download."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
UNREACHABLE = ("dns error", "Failed to fetch", "Could not connect", "error sending request")


def test_these_are_the_supported_pythons() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["requires-python"] == f">={PYTHONS[0]},<3.{int(PYTHONS[-1][2:]) + 1}"
    environments = " ".join(project["tool"]["uv"]["environments"])
    assert re.findall(r"python_version == '([\d.]+)'", environments) == list(PYTHONS)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_each_lock_can_be_installed(lock: str, python: str, tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed; make install brings it")
    locked = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    overrides = (ROOT / "requirements" / "overrides.txt").read_text(encoding="utf-8") if lock == "cpu" else ""
    if lock == "cpu":  # torch's CPU builds are in an index of their own: `make install` takes it from there
        locked = re.sub(r"^torch==.*\n", "", locked, flags=re.MULTILINE)
        overrides += "torch ; python_version < '3'\n"
    for name, text in (("lock.txt", locked), ("overrides.txt", overrides)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [uv, "pip", "install", "--dry-run", "--quiet", "--python-version", python, "--target", tmp_path / "empty",
         "--overrides", tmp_path / "overrides.txt", "--requirement", tmp_path / "lock.txt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and any(each in done.stderr for each in UNREACHABLE):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
