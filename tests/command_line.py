"""The command line, run in the test's own process."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from obliviate_cli import main


class Result(NamedTuple):
    code: int
    out: str
    error: str


Cli = Callable[..., Result]


def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A function that runs `obliviate ARGUMENTS...` and gives its exit code and what it wrote."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["obliviate", *map(str, arguments)])
        code: Any = 0
        try:
            main.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        out, error = capsys.readouterr()
        return Result(code, out, error)

    return run
