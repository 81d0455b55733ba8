"""A release's text is the changelog's section of its version."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".github" / "release_notes.py"
CHANGELOG = """# Changelog

## [Unreleased]

- new

## [1.0.1] - 2026-01-02

### Added

- one

## [1.0.10] - x

- ten
"""


def notes(version: str) -> str:
    spec = spec_from_file_location("release_notes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str = module.notes(CHANGELOG, version)
    return found


def test_the_section_of_the_version_alone() -> None:
    assert notes("1.0.1") == "### Added\n\n- one\n"
    assert notes("1.0.10") == "- ten\n"
    with pytest.raises(ValueError, match=r"no section ## \[1.0\]"):
        notes("1.0")


def test_the_command() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "Unreleased"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("### ")
    lost = subprocess.run([sys.executable, SCRIPT, "v9.9.9"], capture_output=True, text=True, check=False)
    assert (lost.returncode, lost.stderr) == (1, "error: CHANGELOG.md has no section ## [9.9.9]\n")
