"""The script that runs all benchmarks: what it takes for one, for a result, and for a failure."""

import json
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from measured import record
from obliviate.config import load
from obliviate.data.rows import Role
from obliviate.head import Head
from obliviate.methods import FORGET_TYPES, REGULARIZER_TYPES, expand
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_recipes.comparison import CompareRun
from training import job, losses

ROOT = Path(__file__).parents[2]


def benchmark(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run_all() -> ModuleType:
    return benchmark("run_all")


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


@pytest.mark.parametrize("name", ["npo", "me_published", "me"])
def test_the_published_step_and_ours_have_the_same_losses_where_the_definitions_coincide(
    tiny: Path, tmp_path: Path, process_group: None, name: str
) -> None:
    """In float32, at the same weights: NPO, GD, and ME over all padded positions; without padding ME differs."""
    step = benchmark("unlearn_step")
    run = job(tiny, tmp_path, step.COMPARED[name], batch_size=4, micro_batch_size=2)
    run = replace(run, model=run.model.model_copy(update={"max_length": step.PADDED_LENGTH}))
    _, published = step.Published(run, with_reference=name == "npo", dtype=torch.float32).step(0)
    ours = losses(run)[:2]
    assert ours[1] == pytest.approx(published[1], rel=1e-5)  # GD
    if name == "me":
        assert ours[0] != pytest.approx(published[0], rel=1e-2)
    else:
        assert ours[0] == pytest.approx(published[0], rel=1e-5)


def test_scoring_forms_that_are_compared_agree() -> None:
    scoring = benchmark("fused_scoring")
    torch.manual_seed(0)
    hidden, labels = torch.randn(6, 5), torch.randint(11, (6,))
    head, reference = Head(torch.randn(11, 5)), (torch.randn(6, 5), Head(torch.randn(11, 5)))
    for name in scoring.STATS:
        sides = [side(name, hidden, labels, head, reference) for side in (scoring.fused, scoring.eager)]
        torch.testing.assert_close(*sides, rtol=1e-5, atol=1e-5)


@pytest.fixture
def methods_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # where scripts find what they share
    return benchmark("methods_table")


def greedy(*right: bool, logp: float = -1.0) -> Record:
    answer = ScoredAnswer("", (logp,) * len(right), right)
    return record(Role.FORGET, answers={Probe.ANSWER: (answer,)})


def test_extraction_strength_counts_the_suffix_that_needs_no_help(methods_table: ModuleType) -> None:
    """Of four tokens: all; the last two after a mistake at the second; none, the last being wrong."""
    strength = methods_table.extraction_strength
    assert strength(greedy(True, True, True, True)) == 1
    assert strength(greedy(True, False, True, True)) == 0.5
    assert strength(greedy(True, True, True, False)) == 0
    assert strength(greedy(True, True, logp=float("nan"))) is None  # a collapsed model
    assert strength(record(Role.FORGET)) is None


def test_the_table_is_relative_to_its_baseline_and_says_what_is_not_known(
    methods_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = methods_table.Row("GA+GD", 0.5, 0.25, -3.0, 0.125, (1.0, 2.0, 3.0), 2**30)
    slower = methods_table.Row("NPO+GD", 0.0, None, None, None, (3.0, 4.0, 8.0), 2**31)
    target = methods_table.Row("target", 0.5, 0.25, -3.0, 1.0, (), None)
    text = methods_table.table([target, baseline, slower], "Title")
    assert "| target | 0.500 | 0.250 | -3.00 | 1.000 | – | – |" in text
    assert "| GA+GD | 0.500 | 0.250 | -3.00 | 0.125 | 1.00 (0.50 to 1.50) | 1.00 |" in text
    assert "| NPO+GD | 0.000 | – | – | – | 2.00 (1.50 to 4.00) | 2.00 |" in text
    found = methods_table.figures([target, baseline, slower])
    assert (found["npo_gd_step_time_ratio"], found["npo_gd_forget_efficacy"]) == (2.0, None)
    assert "target_step_time_ratio" not in found
    document = tmp_path / "methods.md"
    document.write_text("<!-- a: begin -->\n1\n<!-- a: end -->\n<!-- b: begin -->\n2\n<!-- b: end -->\nafter\n")
    monkeypatch.setattr(methods_table, "DOCUMENT", document)
    methods_table.write_table(text, "b")
    assert document.read_text() == (
        f"<!-- a: begin -->\n1\n<!-- a: end -->\n<!-- b: begin -->\n{text}\n<!-- b: end -->\nafter\n"
    )


@pytest.mark.parametrize("name", ["measured", "controlled"])
def test_the_document_has_a_place_for_the_table(methods_table: ModuleType, name: str) -> None:
    text = methods_table.DOCUMENT.read_text(encoding="utf-8")
    assert text.count(f"<!-- {name}: begin -->") == text.count(f"<!-- {name}: end -->") == 1


def test_what_goes_with_any_method_has_a_row_too(methods_table: ModuleType) -> None:
    """As the comparison takes it; each with a name of its own."""
    methods = ", ".join(methods_table.CONTROLLED)
    config = load(CompareRun, methods_table.CONFIG, [f"methods=[{methods}]", methods_table.AUTHORS])
    runs = [config.unlearning(each, "") for each in config.methods]
    assert len({run.name for run in runs}) == len(runs)
    keys = ("sharpness", "latent", "projection", "rectification", "early_drop")
    assert all(any(getattr(run, key) is not None for run in runs) for key in keys)
    assert {run.updates for run in runs} == {"joint", "dual", "alternating"}
    assert {run.pairing for run in runs} == {"fresh", "nearest", "fixed"}


def test_benchmarks_know_every_method(methods_table: ModuleType) -> None:
    """And the companion that each was published with; but for world data and entities' names to mark, which the table's
    data have none of."""
    long = [expand(name) for name in methods_table.METHODS]
    terms = {term["type"] for each in long for term in (each["method"], *each["regularizers"])}
    assert terms == {*FORGET_TYPES, *REGULARIZER_TYPES} - {"world", "icku", "marked"}
