"""What `obliviate evaluate` is given: a config, or models straight from the command line."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from obliviate.config_file import build, load
from obliviate.errors import UserError
from obliviate_cli.commands import follow
from obliviate_cli.mistakes import in_file
from obliviate_eval.suites import SUITES
from obliviate_recipes.afterwards import DATA_OF
from obliviate_recipes.evaluation import Evaluate, EvaluateRun
from obliviate_recipes.named import named_model

CONFIG_SUFFIXES = (".yaml", ".yml")


def evaluate(arguments: Sequence[str], suite: str | None, data: str | None, retain: str | None, dry_run: bool) -> None:
    """`arguments`: a config file or models, and overrides."""
    overrides = [each for each in arguments if _is_override(each)]
    given = [each for each in arguments if not _is_override(each)]
    config = _config(given, overrides, suite, data, retain)
    with in_file(Path(given[0]), overrides) if Path(given[0]).suffix in CONFIG_SUFFIXES else nullcontext():
        follow(Evaluate(config), dry_run)


def _is_override(argument: str) -> bool:
    """A path may hold a "=", but no key holds a "/"."""
    key, equals, _ = argument.partition("=")
    return bool(equals) and "/" not in key


def _config(
    given: Sequence[str], overrides: list[str], suite: str | None, data: str | None, retain: str | None
) -> EvaluateRun:
    first = Path(given[0]) if given else None
    if first is None:
        raise UserError("evaluate: name a config file, or one or more models with --suite")
    if first.suffix in CONFIG_SUFFIXES:
        if len(given) > 1 or data is not None or retain is not None:
            raise UserError(
                f"evaluate: {first} is a config, which names models, data and retain model itself; "
                "write them there, or give models instead of a config"
            )
        return load(EvaluateRun, first, overrides if suite is None else [f"evaluation.suite={suite}", *overrides])
    if suite is None:
        raise UserError(f"evaluate: {given[0]} is no config file; for a model say --suite, one of {', '.join(SUITES)}")
    runs = next((each.removeprefix("runs=") for each in overrides if each.startswith("runs=")), "runs")
    models: dict[str, Any] = {}
    names = [
        _add(models, *named_model(each, Path(runs))) for each in ([] if retain is None else [retain]) + list(given)
    ]
    values = {
        "models": models,
        "retain_model": None if retain is None else names[0],
        "data": _data(suite, data),
        "evaluation": {"suite": suite},
    }
    return build(EvaluateRun, values, overrides, where="evaluate")


def _data(suite: str, source: str | None) -> dict[str, Any]:
    if source is None:
        return {"type": DATA_OF.get(suite, "tofu")}
    kind = DATA_OF.get(suite, "files" if Path(source).is_file() else "tofu")
    if kind == "blur":
        return {"type": kind, "of": {"type": "tofu", "source": source}}
    return {"type": kind, "forget" if kind == "files" else "source": source}


def _add(models: dict[str, Any], name: str, model: dict[str, Any]) -> str:
    """Under a name that no other model has."""
    taken = [other for other in models if other == name or other.startswith(f"{name}-")]
    if models.get(name) == model:
        return name
    name = name if name not in models else f"{name}-{len(taken) + 1}"
    models[name] = model
    return name
