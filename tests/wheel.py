"""What the wheel holds, as it lies in others' site-packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from once import Once

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def installed(once: Once) -> Path:
    """A folder with what the wheel holds."""

    def fill(folder: Path) -> None:
        built = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        if "No module named hatchling" in built.stderr:
            pytest.skip("hatchling is not installed: pip install hatchling")
        assert built.returncode == 0, built.stderr
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(folder / "site")

    return once("wheel", fill) / "site"
