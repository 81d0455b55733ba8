"""The model card beside a trained model: what was unlearned, how, and what was measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.guardrail import NOT_REMOVED, hides
from obliviate.models import locate
from obliviate.runs import EXPORT_FILE, RUN_FILE, Run, read_part, record_of, write_part, write_whole
from obliviate.schema import ModelSpec, Spec
from obliviate.source import weights_dtype
from obliviate.train.log import read_steps
from obliviate_eval.robustness import ModelFigures
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import Evaluation
from obliviate_recipes.events import Events
from obliviate_recipes.stages.card_metadata import metadata, without_places
from obliviate_recipes.stages.chosen import Chosen
from obliviate_recipes.stages.dropping import dropped_section
from obliviate_recipes.stages.judged import JUDGED, line

CARD = "README.md"
MEASURED = "measured.json"  # beside the model's folder: what each suite measured, the last time
ATTACKED = "attacked.json"  # what the last attacks brought back
COLLAPSED = (
    "the model has collapsed: it no longer gives the answers that it should keep, so that what it no longer says is "
    "not forgotten but destroyed. Lower the learning rate, the forget objective's weight, or method.scale"
)


class Measured(Spec):
    """`behind`: the guardrail that the model was measured behind. `dtype`: of its weights, in the engine."""

    evaluation: Evaluation
    behind: str | None
    dtype: str


class Attacked(Spec):
    control: str
    items: int
    utility_drop: float
    figures: ModelFigures


def write_card(run: Run, folder: str) -> None:
    """Into the run's model folder, from what the run holds; again, once the model is measured or attacked."""
    text = card_of(run, folder)
    write_whole(run.directory / folder / CARD, lambda path: path.write_text(text, encoding="utf-8"))


def card_of(run: Run, folder: str, license_id: str | None = None) -> str:
    """Readable, and valid, wherever the model goes: paths of this machine are in the run's record alone."""
    record = record_of(run.directory)
    config = without_places(record["config"])
    evaluations = [measured.evaluation for measured in _measured(run).values()]
    return "\n".join(
        [
            metadata(record["label"], record["config"], evaluations, license_id),
            f"# {record['label']}",
            "",
            _what(record["verb"], config),
            "",
            *_chosen(run),
            *_stored(run, folder),
            *_filtered(run),
            *dropped_section(run.directory),
            *_measurements(run),
            *_attacks(run),
            "## How to reproduce it",
            "",
            f"Git revision `{record['git_revision'] or 'unknown'}`, seed {config['seed']}, "
            f"{', '.join(f'{name} {version}' for name, version in record['versions'].items())}. "
            f"{_data(record['inputs'])}The resolved config:",
            "",
            "```json",
            json.dumps(config, indent=2, ensure_ascii=False),
            "```",
            "",
        ]
    )


def onto_card(model: ModelSpec, add: Callable[[Run, str], None], events: Events) -> None:
    """Add to the card of a model that one of our runs trained, where that may be written."""
    folder = Path(locate(model.source))
    if model.endpoint is not None:  # the folder holds its tokenizer, and another model
        return
    if not ((folder.parent / RUN_FILE).exists() and (folder / CARD).exists()):  # one that was but opened has none
        return
    try:
        add(Run(folder.parent, ""), folder.name)
    except OSError as error:
        events.warned(f"{folder}: the model's card stays as it was: {error.strerror}")


def add_measurement(run: Run, folder: str, measured: Measured) -> None:
    """Beside those of other suites."""
    found = {**_measured(run), measured.evaluation.suite: measured}
    write_part(run.directory / MEASURED, {suite: each.model_dump(mode="json") for suite, each in found.items()})
    write_card(run, folder)


def add_attacks(run: Run, folder: str, attacked: Attacked) -> None:
    write_part(run.directory / ATTACKED, attacked.model_dump(mode="json"))
    write_card(run, folder)


def _measured(run: Run) -> dict[str, Measured]:
    file = run.directory / MEASURED
    return {suite: Measured.model_validate(each) for suite, each in (read_part(file) or {}).items()}


def _data(inputs: dict[str, str]) -> str:
    return f"Data: SHA-256 `{inputs['data'][:16]}…`. " if "data" in inputs else ""


def _what(verb: str, config: dict[str, Any]) -> str:
    if verb == "fuse":
        names = ", ".join([*config["requests"], *config["adapters"]])
        done = f"hidden (it is {NOT_REMOVED}) in" if hides(config["method"]) else "unlearned from"
        return (
            f"What {names} asked to forget was {done} `{config['model']['source']}` by an adapter each "
            f"({_objective(config)}), and the adapters were fused in closed form (ridge {config['ridge']:g})."
        )
    data, optim = config["data"], config["optim"]
    where = f"`{data['type']}` data" + (f", split `{data['split']}`" if "split" in data else "")
    how = f"{optim['epochs']:g} epochs, learning rate {optim['learning_rate']:g}, batch {optim['batch_size']}"
    if "steps" in config.get("method", {}):  # an ascent
        how = f"{config['method']['steps']} steps of {config['method']['eta']:g}"
    if verb == "finetune":
        rows = {
            "all": "all rows",
            "retain": "all rows but the forget set (a retain model)",
            "forget": "the forget set alone",
        }[config["train_on"]]
        return f"Fine-tuned from `{config['model']['source']}` on {rows} of {where}: {how}."
    objective = _objective(config)
    if verb == "learn":
        return (
            f"Trained from `{config['model']['source']}` ON the forget set of {where} with {objective}: {how}. It "
            "knows what is to be forgotten better than before; only the difference of its weights is of use."
        )
    if hides(config["method"]):
        return (
            f"Taught from `{config['model']['source']}` not to tell the forget set of {where} where the prompt marks "
            f"it, with {objective}: {how}. What it does not tell is {NOT_REMOVED}."
        )
    if config["method"]["type"] == "task_vector":
        learned = 1 + len(config["method"]["learning_rates"])
        agreed = f", where {learned} learnings agree on its sign," if learned > 1 else ""
        objective += f", and {config['method']['scale']:g} times the change of the weights{agreed} subtracted"
    if (spec := config.get("sanitisation")) is not None:
        objective += f", its change sanitised (strength {spec['strength']:g})"
    if (spec := config.get("undo")) is not None:
        objective += f", distilled into a copy that had lost {spec['share']:.0%} of its weights"
    return (
        f"The forget set of {where} was unlearned from `{config['model']['source']}` with {objective}: {how}. "
        "Unlearning lowers what can be measured of the forgotten texts; it is no proof that nothing of them is left."
    )


def _objective(config: dict[str, Any]) -> str:
    terms = [config["method"], *config["regularizers"]]
    return " + ".join(f"{term['weight']:g} {term['type'].upper()}" for term in terms)


def _filtered(run: Run) -> list[str]:
    """The rows that were to be forgotten and were not trained on, one by one."""
    path = run.directory / JUDGED
    if not path.exists():
        return []
    judged = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    filtered = [f"- {line(each)}" for each in judged if each["filtered"]]
    title = f"{len(filtered)} of {len(judged)} forget rows were filtered: the model may still know what they say."
    return ["## Not unlearned", "", title, "", *filtered, ""]


def _chosen(run: Run) -> list[str]:
    """Which step's model it is, where that was not simply the last."""
    chosen = Chosen.of(read_steps(run.directory))
    return [] if chosen is None else [chosen.text, ""]


def _stored(run: Run, folder: str) -> list[str]:
    """In which dtype the weights lie, and what that leaves of training."""
    dtype = weights_dtype(ModelSpec(source=storage.name(run.directory / folder)))  # another node may have written it
    if dtype is None:
        return []
    text = f"The weights are stored in {dtype}."
    exported = run.directory / EXPORT_FILE
    found = json.loads(exported.read_text(encoding="utf-8"))["rounding"] if exported.exists() else None
    if found is not None and found["moved"]:
        share = found["kept"] / found["moved"]
        text += f" Training moved {found['moved']} of them in float32; {share:.1%} of these still differ when rounded."
    return [text, ""]


def _measurements(run: Run) -> list[str]:
    found = _measured(run)
    if not found:
        return ["## Measurements", "", "Not measured yet: `obliviate evaluate`.", ""]
    lines = ["## Measurements", ""]
    for measured in found.values():
        lines += _suite(measured)
    return lines


def _suite(measured: Measured) -> list[str]:
    evaluation = measured.evaluation
    lines = [f"Suite `{evaluation.suite}`; 95% bootstrap intervals; n is the items scored.", ""]
    lines += [f"Figures hold for the weights in {measured.dtype}, in which the engine had them.", ""]
    if measured.behind is not None:
        lines += [
            f"Measured behind a {measured.behind}: the bare model, which is what lies here, has other figures.",
            "",
        ]
    lines += ["| set | metric | value | interval | n |", "|---|---|---|---|---|"]
    rows = [(name, metric, figure) for name, row in evaluation.sets.items() for metric, figure in row.items()]
    rows += [("all", name, figure) for name, figure in evaluation.aggregates.items()]
    lines += [f"| {name} | {metric} | {_cells(figure)} |" for name, metric, figure in rows]
    if (quality := evaluation.forget_quality) is not None:
        shown = f"p = {quality.p_value:.3g}, KS statistic = {quality.statistic:.3f}, log10 p = {quality.log10_p:.2f}"
        lines += ["", f"Forget quality against the retain model: {shown}."]
    if evaluation.collapsed:
        lines += ["", f"Warning: {COLLAPSED}."]
    return [*lines, ""]


def _attacks(run: Run) -> list[str]:
    """Which were tried, how strong, and what came back."""
    file = run.directory / ATTACKED
    attacked = read_part(file)
    if attacked is None:
        return ["## Attacks", "", "Not attacked yet: `obliviate attack`. What is not said may still be there.", ""]
    found = Attacked.model_validate(attacked)
    figures = found.figures
    beyond = "beyond what the same attack teaches a model that never knew" if found.control == "retain" else (
        "without a model that never knew beside it: what an attack teaches by itself is in it"
    )  # fmt: skip
    lines = [
        "## Attacks",
        "",
        f"Excess recovery of {found.items} items that no attack was trained on: what came back, as a share of what was "
        f"lost, {beyond}. Of each attack the strongest setting that costs at most {found.utility_drop:.0%} of the "
        "utility.",
        "",
        "| attack | setting | measure | excess recovery | interval | n |",
        "|---|---|---|---|---|---|",
    ]
    for name, attack in figures.attacks.items():
        rows = [(o.setting, measure, _cells(o.recovery.excess)) for measure, o in attack.worst.items()]
        lines += [f"| {name} | {setting} | {measure} | {cells} |" for setting, measure, cells in rows]
        if not attack.worst:
            lines.append(f"| {name} | – | – | could not be told, at {attack.settings} settings | – | – |")
    if figures.score is not None and figures.score.value is not None:
        lines += ["", f"Robustness score {figures.score.value:.3f}: 1 less the highest, by {figures.attack}."]
    return [*lines, ""]


def _cells(figure: Figure) -> str:
    if figure.value is None:
        return f"– | – | {figure.scored}"
    interval = "–" if figure.low is None or figure.high is None else f"{figure.low:.3f} to {figure.high:.3f}"
    return f"{figure.value:.3f} | {interval} | {figure.scored}"
