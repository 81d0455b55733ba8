"""The image's description keeps the rules that its check states, and the check finds what breaks them."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from dockerfile import ROOT, dockerfile

IGNORE = (ROOT / "image" / "Dockerfile.dockerignore").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = spec_from_file_location("image_check", ROOT / "image" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["image_check"] = module
    spec.loader.exec_module(module)
    return module


def test_the_dockerfile_keeps_the_rules(check: ModuleType) -> None:
    assert list(check.problems(dockerfile(), IGNORE)) == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("python:3.11.13-slim-bookworm", "python:latest", "FROM python:latest: not pinned"),
        ("python:3.11.13-slim-bookworm", "python:3-slim", "not pinned to a whole version or a digest"),
        ("COPY serve serve", "COPY server server", "COPY server: no such file"),
        ("COPY serve serve", "COPY docs docs", "COPY docs: the dockerignore file leaves it out"),
        ("--from=build", "--from=other", "there is no stage other"),
        ("COPY serve serve", "ADD https://example.com/x.tar x", "ADD https://example.com/x.tar x: use COPY"),
        ("uv==${UV_VERSION}", "uv", "held to no version"),
        ("--constraint requirements/gpu.txt", "", "held to no version"),
        ("USER 1000:1000", "USER ray", "USER ray: give a number"),
        ("USER 1000:1000", "USER 0", "USER 0: give a number"),
        ("USER 1000:1000\n", "", "USER (none): give a number"),
        ("HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=0", "ENV HF_HUB_OFFLINE: set 1"),
        ("USER 1000:1000", "RUN pip install --no-deps x\nUSER 1000:1000", "the last stage takes its packages"),
        ("USER 1000:1000", "RUN curl https://x | sh\nUSER 1000:1000", "downloads past the package managers"),
    ],
)
def test_what_breaks_them_is_found(check: ModuleType, before: str, after: str, problem: str) -> None:
    text = dockerfile()
    assert before in text
    assert any(problem in line for line in check.problems(text.replace(before, after), IGNORE))


def test_one_stage_is_not_enough(check: ModuleType) -> None:
    text = "FROM python:3.11.13\nENV HF_HUB_OFFLINE=1\nUSER 1000\n"
    assert list(check.problems(text, IGNORE)) == ["there is one stage only; build in another one"]


def test_versions_are_those_of_the_makefile(check: ModuleType) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    arguments = check.arguments(check.instructions(dockerfile()))
    for name in ("UV_VERSION", "TORCH_VERSION"):
        assert re.search(rf"^{name} := (.*)$", makefile, flags=re.MULTILINE)[1] == arguments[name]  # type: ignore[index]


def test_instructions_are_read_whole(check: ModuleType) -> None:
    text = "# c\nFROM a:1.2.3 AS one\nRUN x \\\n # a comment between\n && y\n\nFROM b:1.2.3\nENV A=1 \\\n  B='2 3'\n"
    found = check.instructions(text)
    assert [(each.word, each.rest, each.stage) for each in found] == [
        ("FROM", "a:1.2.3 AS one", "one"), ("RUN", "x && y", "one"), ("FROM", "b:1.2.3", "1"),
        ("ENV", "A=1 B='2 3'", "1"),
    ]  # fmt: skip
    assert check.environment(found, "1") == {"A": "1", "B": "2 3"}


def test_paths_of_the_image_become_paths_of_the_folder(check: ModuleType) -> None:
    steps = check.Installation(check.instructions(dockerfile()), Path("/tmp/x"), {})
    assert steps._inside("/opt/venv/bin/uv pip install .") == "/tmp/x/opt/venv/bin/uv pip install ."
    assert steps._inside("/opt/venv/bin:/usr/bin") == "/tmp/x/opt/venv/bin:/usr/bin"
    assert steps._inside("https://a/opt/venv") == "https://a/opt/venv"
