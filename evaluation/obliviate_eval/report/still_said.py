"""Which models still say what they were to forget, in words, and what to change."""

from collections.abc import Sequence

from obliviate.data.rows import Role
from obliviate_eval.report.model import ModelReport


def still_said(models: Sequence[ModelReport]) -> list[str]:
    """A line for each unlearned model that says more of the facts of its first forget set, when it is asked, than the
    retain model does, or any where there is none."""
    figures = {model.name: model.figures_of(Role.FORGET).get("key_said") for model in models}
    never_knew = next((figures[model.name] for model in models if model.kind == "retain"), None)
    by_chance = 0.0 if never_knew is None or never_knew.value is None else never_knew.value
    lines = []
    for model in models:
        said = figures[model.name]
        if model.kind == "unlearned" and said is not None and said.value is not None and said.value > by_chance:
            beside = "" if never_knew is None else f", the retain model {by_chance * said.scored:.0f}"
            lines.append(
                f"{model.name} still says {said.value * said.scored:.0f} of the {said.scored} facts it was to forget"
                f"{beside}: raise optim.epochs or optim.learning_rate, or take another method; `validation` then ends "
                "with the step that forgets most for what it keeps"
            )
    return lines
