"""The script that runs all benchmarks: what it takes for one, for a result, and for a failure."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_all() -> ModuleType:
    spec = spec_from_file_location("run_all", ROOT / "benchmarks" / "run_all.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["run_all"] = module
    spec.loader.exec_module(module)
    return module


def script(folder: Path, name: str, code: str) -> Path:
    path = folder / name
    path.write_text(code)
    return path


def test_scripts_that_begin_with_an_underscore_and_the_runner_are_none(run_all: ModuleType, tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "_shared.py", "run_all.py", "notes.md"):
        script(tmp_path, name, "")
    assert [path.name for path in run_all.benchmarks(tmp_path)] == ["a.py", "b.py"]


def test_the_last_line_is_the_result(run_all: ModuleType, tmp_path: Path) -> None:
    code = "import sys, json; print('progress'); print(json.dumps({'step_s': 1.5, 'arguments': sys.argv[1:]}))"
    result = run_all.run(script(tmp_path, "fast.py", code))
    assert result.name == "fast"
    assert result.figures == {"step_s": 1.5, "arguments": ["--quick", "--json"]}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit(3)", "exit code 3"),
        ("print('done')", "the last line is no JSON object: 'done'"),
        ("print('[1]')", "the last line is no JSON object: '[1]'"),
        ("", "the last line is no JSON object: ''"),
    ],
)
def test_failures_are_named(run_all: ModuleType, tmp_path: Path, code: str, error: str) -> None:
    result = run_all.run(script(tmp_path, "bad.py", code))
    assert result.figures is None
    assert result.error == error


def test_the_log_is_appended_to(run_all: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "LOG.md"
    log.write_text("# Benchmark log\n\nold\n")
    run_all.append(log, [run_all.Result("a", {"step_s": 1.5}, 2.0), run_all.Result("b", None, 1.0, "exit code 3")])
    text = log.read_text()
    assert text.startswith("# Benchmark log\n\nold\n\n## 20")
    assert "### a (2 s)" in text
    assert json.loads(text.partition("```json")[2].partition("```")[0]) == {"step_s": 1.5}
    assert "Failed: exit code 3.\n" in text
    assert "torch 2." in text
