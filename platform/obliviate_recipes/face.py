"""The functions of this package. They import when they are called, so that the package itself loads at once."""

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate.errors import UserError
from obliviate_recipes.catalogue import RECIPES, load, named_by, recipe_of
from obliviate_recipes.events import Bars, Events
from obliviate_recipes.given import Model, Rows, data_of, model_of

if TYPE_CHECKING:
    from obliviate.config import Unlearning
    from obliviate.methods import ForgetObjective
    from obliviate.schema import ModelSpec
    from obliviate_recipes.recipe import Recipe
    from obliviate_recipes.results import Attacked, Evaluated, Swept


def unlearn(
    model: Model,
    *,
    method: "str | Mapping[str, Any] | ForgetObjective",
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    data: Mapping[str, Any] | None = None,
    runs: str | PathLike[str] = "runs",
    events: Events | None = None,
    **keys: Any,
) -> "ModelSpec":
    """Remove the forget set from a model; the model that has forgotten, whose folder is its `source`.

    `data` is what a config says, for any other source than files. `keys` are the other keys of `obliviate unlearn`.
    Raises UserError.
    """
    made: ModelSpec = _made("unlearn", {"model": model, "method": method, **keys}, data, forget, retain, runs, events)
    return made


def finetune(
    model: Model,
    *,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    data: Mapping[str, Any] | None = None,
    runs: str | PathLike[str] = "runs",
    events: Events | None = None,
    **keys: Any,
) -> "ModelSpec":
    """Teach a model the data: all of it, or with `train_on="retain"` all but the forget set (a retain model).

    Arguments as of `unlearn`; `keys` are the other keys of `obliviate finetune`. Raises UserError.
    """
    made: ModelSpec = _made("finetune", {"model": model, **keys}, data, forget, retain, runs, events)
    return made


def evaluate(
    models: Mapping[str, Model],
    *,
    suite: str | Mapping[str, Any] | None = None,
    retain_model: str | None = None,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    data: Mapping[str, Any] | None = None,
    runs: str | PathLike[str] = "runs",
    events: Events | None = None,
    **keys: Any,
) -> "Evaluated":
    """Measure models side by side on the same items. `suite` is short for `evaluation={"suite": ...}`.

    `retain_model` is the name of one that never saw the forget set: it gives forget quality. `keys` are the other keys
    of `obliviate evaluate`. Raises UserError.
    """
    values = {"models": dict(models), "retain_model": retain_model, **_with_suite(keys, suite)}
    found: Evaluated = _made("evaluate", values, data, forget, retain, runs, events)
    return found


def compare(
    model: Model,
    *,
    methods: "Iterable[str | Mapping[str, Any] | Unlearning]",
    suite: str | Mapping[str, Any] | None = None,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    data: Mapping[str, Any] | None = None,
    runs: str | PathLike[str] = "runs",
    events: Events | None = None,
    **keys: Any,
) -> "Evaluated":
    """Unlearn with several methods, measure all models on the same items, and report.

    `keys` are the other keys of `obliviate compare`, `finetune` and `retain_model` among them. Raises UserError.
    """
    values = {"model": model, "methods": list(methods), **_with_suite(keys, suite)}
    found: Evaluated = _made("compare", values, data, forget, retain, runs, events)
    return found


def attack(
    models: Mapping[str, Model],
    *,
    model: Model,
    attacks: Iterable[str | Mapping[str, Any]],
    retain_model: "Model | None" = None,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    data: Mapping[str, Any] | None = None,
    runs: str | PathLike[str] = "runs",
    events: Events | None = None,
    **keys: Any,
) -> "Attacked":
    """Try to bring back what models have forgotten, beside `model`, the original, and one that never knew.

    `attacks`: names, or keys as in a config. Without a retain model give `control="none"`: then nothing tells what an
    attack teaches by itself. `keys` are the other keys of `obliviate attack`. Raises UserError.
    """
    named = [{"type": each} if isinstance(each, str) else each for each in attacks]
    values = {"models": dict(models), "model": model, "retain_model": retain_model, "attacks": named, **keys}
    found: Attacked = _made("attack", values, data, forget, retain, runs, events)
    return found


def sweep(
    model: Model,
    *,
    space: Mapping[str, Any],
    suite: str | Mapping[str, Any] | None = None,
    forget: "Rows | None" = None,
    retain: "Rows | None" = None,
    data: Mapping[str, Any] | None = None,
    runs: str | PathLike[str] = "runs",
    events: Events | None = None,
    **keys: Any,
) -> "Swept":
    """Search methods and their parameters for what forgets most and keeps most.

    `keys` are the other keys of `obliviate sweep`. Raises UserError.
    """
    values = {"model": model, "space": space, **_with_suite(keys, suite)}
    found: Swept = _made("sweep", values, data, forget, retain, runs, events)
    return found


def run(
    config: str | PathLike[str] | Mapping[str, Any],
    *overrides: str,
    recipe: str | None = None,
    events: Events | None = None,
) -> Any:
    """Do what a config says, whatever it is for: a file, as the command line takes it, or its keys and values.

    Its keys tell the recipe, or `recipe` does, a command's name. Returns what the function of that name returns; of
    recipes without one, what they end in: a model, or the path of a report or a file. Raises UserError.
    """
    if isinstance(config, Mapping):
        return _concluded(_opened(config, overrides, recipe), events)
    try:
        return _concluded(_opened(config, overrides, recipe), events)
    except UserError as error:
        from obliviate.config_file import with_file

        raise UserError(with_file(Path(config), overrides, str(error))) from error


def dry_run(config: str | PathLike[str] | Mapping[str, Any], *overrides: str, recipe: str | None = None) -> list[str]:
    """What `run` would do, a line or a few for each stage: steps, tokens, memory, and what is done already.

    Raises UserError for what could not be done.
    """
    return list(_opened(config, overrides, recipe).outline())


def _with_suite(keys: Mapping[str, Any], suite: Any) -> dict[str, Any]:
    return dict(keys) if suite is None else {**keys, "evaluation": {**keys.get("evaluation", {}), "suite": suite}}


def _made(
    name: str,
    values: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    forget: "Rows | None",
    retain: "Rows | None",
    runs: str | PathLike[str],
    events: Events | None,
) -> Any:
    """`values`: keys of the config, but for its data and the folder of its runs."""
    folder = fspath(runs)
    given = {**values, "runs": folder}
    if (found := data_of(data, folder, forget, retain)) is not None:
        given["data"] = found
    for key in ("model", "retain_model"):
        if name != "evaluate" and given.get(key) is not None:  # there `retain_model` is the name of one of `models`
            given[key] = model_of(given[key], folder)
    if name in ("evaluate", "attack"):
        given["models"] = {each: model_of(model, folder) for each, model in given["models"].items()}
    return _concluded(_of_values(name, given, ()), events)


def _opened(
    config: str | PathLike[str] | Mapping[str, Any], overrides: tuple[str, ...], name: str | None
) -> "Recipe[Any, Any]":
    if name is not None and name not in RECIPES:
        raise UserError(f"recipe: {name!r} is not known; known: {', '.join(RECIPES)}")
    if not isinstance(config, Mapping):
        path = Path(config)
        return load(name or recipe_of(path), path, overrides)
    data, given = config.get("data"), dict(config)
    if isinstance(data, Mapping):
        given["data"] = data_of(data, str(config.get("runs", "runs")))
    return _of_values(name or named_by(config, "run"), given, overrides)


def _of_values(name: str, values: Mapping[str, Any], overrides: tuple[str, ...]) -> "Recipe[Any, Any]":
    from obliviate.config_file import build

    recipe = RECIPES[name].load()
    return recipe(build(recipe.takes, values, overrides, where=name))


def _concluded(recipe: "Recipe[Any, Any]", events: Events | None) -> Any:
    """What it makes, with its figures as tables where it has some."""
    from obliviate_recipes.tracking.tracker import tracked

    with tracked(recipe.config, events or Bars()) as told:
        made = recipe.perform(told)
    from obliviate_eval.robustness import ROBUSTNESS_FILE
    from obliviate_recipes.attacking import Attacking
    from obliviate_recipes.reporting import REPORT
    from obliviate_recipes.results import Attacked, Evaluated, Swept
    from obliviate_recipes.stages.measure import Figures
    from obliviate_recipes.sweeps.result import Result

    if isinstance(made, Result):
        return Swept(made, made.directory / REPORT)
    measured = {stage.label: stage for stage in recipe.stages if isinstance(stage, Figures)}
    if not measured:
        return made
    (spec, *_) = (stage.records.shared.spec for stage in measured.values())
    folders = {name: stage.run.directory for name, stage in measured.items()}
    if isinstance(recipe, Attacking):
        return Attacked(recipe.config, spec, folders, made, file=made.with_name(ROBUSTNESS_FILE))
    return Evaluated(recipe.config, spec, folders, made if isinstance(made, Path) else None)
