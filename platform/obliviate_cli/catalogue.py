"""`obliviate methods` and `obliviate metrics`: what there is, from the classes themselves."""

from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from obliviate.methods import FORGET_TYPES, REGULARIZER_TYPES
from obliviate_eval.metrics import AnyMetric
from obliviate_eval.suites import SUITES


def methods() -> None:
    console = Console()
    for title, types in (("Forget objectives", FORGET_TYPES), ("Regularizers", REGULARIZER_TYPES)):
        table = Table("name", "what it does", "when to use it", "parameters and defaults", "source", title=title)
        for name, cls in types.items():
            table.add_row(name, cls.title, cls.when, _parameters(cls), cls.source)
        console.print(table)
    console.print("Compose them as method=npo+gd, or in YAML; llmu stands for ga+mismatch+kl.", highlight=False)


def metrics() -> None:
    console = Console()
    table = Table("name", "what it measures", "source", "suites", title="Metrics")
    for cls in get_args(get_args(AnyMetric)[0]) or get_args(AnyMetric):
        name = cls.model_fields["type"].default
        suites = [suite.name for suite in SUITES.values() if any(metric.type == name for metric in suite.metrics)]
        table.add_row(name, cls.title, cls.source, ", ".join(suites))
    console.print(table)
    table = Table("suite", "what it is", "aggregates", title="Suites")
    for suite in SUITES.values():
        table.add_row(suite.name, suite.title, ", ".join(aggregate.name for aggregate in suite.aggregates))
    console.print(table)


def _parameters(cls: Any) -> str:
    return "\n".join(f"{name}={_shown(field.default)}" for name, field in cls.model_fields.items() if name != "type")


def _shown(value: Any) -> str:
    return value.value if hasattr(value, "value") else str(value)
