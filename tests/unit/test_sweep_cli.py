"""`obliviate sweep` as a user meets it: the plan, and mistakes in one line."""

from pathlib import Path

import pytest
import yaml
from test_cli import Cli, cli, config, mistake

__all__ = ["cli", "config"]  # fixtures


@pytest.fixture
def space(config: Path, tmp_path: Path) -> Path:
    """Three configurations of two methods with two seeds: eight rows in four steps of four, six trials."""
    values = yaml.safe_load(config.read_text())
    del values["method"]
    values |= {"space": {"methods": {"npo+gd": {"method.beta": [0.1, 0.5]}, "ga": {}}}, "seeds": [0, 1]}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.mark.parametrize("verb", [("sweep",), ("sweep", "run")])
def test_the_plan(cli: Cli, space: Path, tmp_path: Path, verb: tuple[str, ...]) -> None:
    code, out, error = cli(*verb, space, "--dry-run")
    assert (code, error) == (0, "")
    assert out.splitlines()[-4:] == [
        "3 configurations x 2 seeds = 6 trials, 1 at a time, sampler grid, scheduler none",
        "  npo+gd: 2 configurations, 16 steps at most",
        "  ga: 1 configurations, 8 steps at most",
        f"report in {tmp_path / 'runs'}",
    ]
    assert not (tmp_path / "runs").exists()


def test_help_names_what_there_is(cli: Cli) -> None:
    code, out, _ = cli("sweep", "--help")
    assert code == 0
    assert "keep" in out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "space={methods: {npo+gd: {method.temperature: [1]}}}",
            "space: method.temperature: not a parameter of npo+gd",
        ),
        ("space={methods: {}}", "the space is empty; name at least one method"),
        (
            "objectives.utility=fluency",
            "objectives.utility: the suite closer_look gives no 'fluency'; it gives: model_",
        ),
        ("sampler.type=bayes", "sampler.type: 'bayes' is not known; known: grid, random, optuna"),
        ("choose={type: utility, share: 2}", "choose.share: should be less than or equal to 1 (got 2)"),
        ("scheduler={type: asha, graze: 2}", "scheduler.graze: unknown key; did you mean grace?"),
        ("space={methods: {npo+gd: {optim.epochs: {low: 1, high: 2}}}}", "a grid needs a list of values"),
    ],
)
def test_mistakes_in_the_config(cli: Cli, space: Path, override: str, said: str) -> None:
    assert said in mistake_of(cli, space, override)


def mistake_of(cli: Cli, space: Path, *overrides: str) -> str:
    """Of the dry run, which may have printed the config before the data or the space was found wrong."""
    code, _, error = cli("sweep", space, *overrides, "--dry-run")
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_method_that_needs_a_retain_set(cli: Cli, space: Path) -> None:
    assert "NPO+GD needs a retain set and the data has none" in mistake_of(cli, space, "data.retain=null")


def test_a_storage_path_that_cannot_be_written(cli: Cli, space: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = mistake(cli("sweep", space, f"runs={tmp_path / 'file'}"))
    assert message.startswith(f"runs: {tmp_path / 'file'}: cannot be written")


def test_a_trial_that_there_is_not(cli: Cli, tmp_path: Path) -> None:
    assert "no sweep in" in mistake(cli("sweep", "promote", "12ab", "--runs", tmp_path))
