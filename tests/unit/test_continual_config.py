"""The config of a continual run: what each step of each method gets, and mistakes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from obliviate.config import build
from obliviate.data.continual import ContinualData
from obliviate.data.rows import Row, write_rows
from obliviate.errors import UserError
from obliviate.schema import ModelSpec
from obliviate_cli.commands import command
from obliviate_recipes.continual import Continual, ContinualRun


@pytest.fixture
def values(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """Two tasks of four rows, and six that are kept."""
    for name, count in (("first", 4), ("second", 4), ("kept", 6)):
        write_rows(tmp_path / f"{name}.jsonl", [Row(f"Who is {name} {i}?", f"Number {i}.") for i in range(count)])
    return {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {
            "type": "files_tasks",
            "forget": [f"{tmp_path}/first.jsonl", f"{tmp_path}/second.jsonl"],
            "retain": f"{tmp_path}/kept.jsonl",
        },
        "methods": ["me+gd", {"name": "fixed", "method": "npo+gd", "reference_step": "first"}],
        "optim": {"epochs": 2, "batch_size": 4},
        "runs": str(tmp_path / "runs"),
    }


def run(values: dict[str, Any]) -> ContinualRun:
    return build(ContinualRun, values, where="test")


def test_each_step_starts_from_the_last_ones_model(values: dict[str, Any]) -> None:
    config = run(values)
    before, first = config.model, ModelSpec(source="step-1", max_length=64)
    step = config.unlearning(config.methods[0], 2, first, before)
    assert (step.name, step.model.source, step.model.max_length) == ("ME+GD-step-2", "step-1", 64)
    assert step.reference is None
    assert isinstance(step.data, ContinualData)
    assert step.data.step == 2


def test_a_fixed_reference_is_the_model_before_the_first_step(values: dict[str, Any]) -> None:
    config = run(values)
    before, first = config.model, ModelSpec(source="step-1", max_length=64)
    method = config.methods[1]
    assert config.unlearning(method, 1, before, before).reference is None  # it is the starting model
    reference = config.unlearning(method, 2, first, before).reference
    assert reference == before


def test_the_plan(values: dict[str, Any]) -> None:
    """4 rows, 2 epochs, batch 4: 2 steps. Step 1 keeps the second task and six rows, step 2 the six."""
    lines = list(Continual(run(values)).outline())
    assert [line.split(": ", 1)[0] for line in lines if ": unlearn" in line] == [
        "ME+GD-step-1", "ME+GD-step-2", "fixed-step-1", "fixed-step-2",
    ]  # fmt: skip
    trained = [line for line in lines if ": unlearn" in line]
    assert "unlearn 4 rows with ME+GD, retain set of 10: 2 steps of 4 items" in trained[0]
    assert "retain set of 6: 2 steps" in trained[1]
    assert len([line for line in lines if line.startswith("evaluate ")]) == 5


def test_two_methods_of_one_name(values: dict[str, Any]) -> None:
    values["methods"] = ["npo+gd", {"method": "npo+gd", "reference_step": "first"}]
    with pytest.raises(UserError, match=r"methods: two are called NPO\+GD; give each a `name` of its own"):
        run(values)


def test_a_fixed_reference_that_nothing_compares_with(values: dict[str, Any]) -> None:
    values["methods"] = [{"method": "me+gd", "reference_step": "first"}]
    with pytest.raises(
        UserError, match=r"test: methods\.0: reference: .*: no term of ME\+GD compares with another model"
    ):
        run(values)
    values["methods"] = [{"method": "ga+kl", "reference_step": "first"}]  # whose KL does
    run(values)


def test_a_mistake_in_a_later_method_is_found_before_the_first_one_runs(values: dict[str, Any]) -> None:
    values["methods"][1]["method"] = {"type": "npo", "bet": 0.1}
    with pytest.raises(UserError, match=r"methods\.1\.method\.bet: unknown key; did you mean beta\?"):
        run(values)


def test_adapters_are_no_start_for_the_next_step(values: dict[str, Any]) -> None:
    values["model"]["lora"] = {"merge": False}
    with pytest.raises(UserError, match=r"model\.lora\.merge: false keeps an adapter"):
        run(values)


def test_a_suite_without_forget_efficacy_is_found_before_any_work(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "evaluation": {"suite": "tofu"}}))
    with pytest.raises(UserError, match=r"evaluation\.suite: tofu has no forget efficacy"):
        command("continual")(config=tmp_path / "run.yaml", overrides=[], dry_run=True)
