"""What `obliviate evaluate` is given: a config, or models straight from the command line."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.config_file import build, load
from obliviate.errors import UserError
from obliviate.runs import DONE_FILE, RUN_FILE, record_of
from obliviate_cli.commands import follow
from obliviate_cli.mistakes import in_file
from obliviate_eval.suites import SUITES
from obliviate_recipes.evaluation import Evaluate, EvaluateRun
from obliviate_recipes.stage import MODEL

CONFIG_SUFFIXES = (".yaml", ".yml")
# Suite -> the type of data that it was made for; any other suite is asked of TOFU.
DATA_OF = {
    "closer_look_real_world": "real_world",
    "real_world": "real_world",
    "muse": "muse",
    "wmdp": "wmdp",
    "wmdp_robust": "wmdp_robust",
    "wmdp_cloze": "wmdp_cloze",
    "rwku": "rwku",
    "knowundo": "knowundo",
    "custom": "files",
    "lume": "lume",
    "relu": "relu",
    "blur": "blur",
    "pistol": "pistol",
}


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
    names = [_add(models, *_model(each, Path(runs))) for each in ([] if retain is None else [retain]) + list(given)]
    values = {
        "models": models,
        "retain_model": None if retain is None else names[0],
        "data": _data(suite, data),
        "evaluation": {"suite": suite},
    }
    return build(EvaluateRun, values, overrides, where="evaluate")


def _data(suite: str, source: str | None) -> dict[str, Any]:
    kind = DATA_OF.get(suite, "tofu")
    if source is None:
        return {"type": kind}
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


def _model(given: str, runs: Path) -> tuple[str, dict[str, Any]]:
    """Name and spec of a run's folder, a run's name, a model's folder or file, or a hub id.

    A model that one of our runs made is laid out as that run laid out its texts.
    """
    path = storage.local(given).expanduser()
    if storage.fetch(path / RUN_FILE).exists():
        return _trained(path)
    if path.name == MODEL and storage.fetch(path.parent / RUN_FILE).exists():
        return _trained(path.parent)
    if "/" not in given and not path.exists() and (found := _named(given, runs)):
        if len(found) > 1:
            raise UserError(f"evaluate: {given}: several runs have this name: {', '.join(map(str, found))}; give one")
        return _trained(found[0])
    return path.name.removeprefix("package:"), {"source": given}


def _named(name: str, runs: Path) -> list[Path]:
    """Finished runs with a model, by the name that they were given or made from."""
    whole = (folder for folder in storage.children(storage.local(runs)) if _is_whole(folder))
    return [folder for folder in whole if storage.is_folder(folder / MODEL) and record_of(folder)["label"] == name]


def _is_whole(folder: Path) -> bool:
    return all(storage.fetch(folder / file).exists() for file in (RUN_FILE, DONE_FILE))


def _trained(run: Path) -> tuple[str, dict[str, Any]]:
    if not storage.is_folder(run / MODEL):
        raise UserError(f"evaluate: {run}: no model in this run; give one that has been trained to its end")
    record = record_of(run)
    layout = {**record["config"]["model"], "base": None, "lora": None, "revision": None}
    return record["label"], {**layout, "source": storage.name(run / MODEL)}
