"""`obliviate methods` and `obliviate metrics`: what there is, from the classes themselves."""

from typing import Any

from obliviate.methods import ALIASES, FORGET_TYPES, REGULARIZER_TYPES
from obliviate_cli.console import open_console
from obliviate_eval.metrics import COMPARISON_TYPES, METRIC_TYPES
from obliviate_eval.suites import SUITES


def methods() -> None:
    console = open_console()
    for title, types in (("FORGET OBJECTIVES", FORGET_TYPES), ("REGULARIZERS", REGULARIZER_TYPES)):
        console.print(title, style="bold")
        for name, cls in types.items():
            console.print(f"  {name}: {cls.title}")
            console.print(f"      when        {cls.when}")
            console.print(f"      parameters  {_parameters(cls)}")
            console.print(f"      source      {cls.source}")
    short = "; ".join(f"{name} stands for {long}" for name, long in ALIASES.items())
    console.print(f"Compose them as method=npo+gd, or in YAML with weights of their own; {short}.")


def metrics() -> None:
    console = open_console()
    for title, types in (("METRICS", METRIC_TYPES), ("COMPARISONS OF SETS OR MODELS", COMPARISON_TYPES)):
        console.print(title, style="bold")
        for name, cls in types.items():
            suites = [s.name for s in SUITES.values() if name in {each.type for each in (*s.metrics, *s.comparisons)}]
            console.print(f"  {name}: {cls.title}")
            console.print(f"      direction   {cls.direction}")
            console.print(f"      parameters  {_parameters(cls) or 'none'}")
            console.print(f"      suites      {', '.join(suites)}")
            console.print(f"      source      {cls.source}")
    console.print("SUITES", style="bold")
    for suite in SUITES.values():
        console.print(f"  {suite.name}: {suite.title}")
        for aggregate in suite.aggregates:
            console.print(f"      {aggregate.name}: {aggregate.title}")


def _parameters(cls: Any) -> str:
    return ", ".join(f"{name}={_shown(field.default)}" for name, field in cls.model_fields.items() if name != "type")


def _shown(value: Any) -> str:
    return value.value if hasattr(value, "value") else str(value)
