"""Rows that a stage has found or made, as files, and as the line of `data` that hands them to other runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from obliviate import storage
from obliviate.data.rows import EvaluationSet, Row, write_rows
from obliviate.runs import write_whole
from obliviate_recipes.events import Events

DATA = "data.yaml"


def write_data(folder: Path, forget: Sequence[Row], retain: Sequence[Row], sets: Sequence[EvaluationSet]) -> None:
    """One file a set (empty ones are left out), and `data.yaml`, which names them all."""
    data: dict[str, Any] = {"type": "files", "eval_limit": None}
    for name, rows in (("forget", forget), ("retain", retain)):
        if rows:
            data[name] = storage.name(folder / f"{name}.jsonl")
            write_rows(folder / f"{name}.jsonl", rows)
    for each in sets:
        if each.rows:
            path = folder / f"measured-{each.name}.jsonl"
            data.setdefault("evaluation", {})[each.name] = {"path": storage.name(path), "role": each.role.value}
            write_rows(path, each.rows)
    # One line, so that a shell can hand it over as it is.
    line = yaml.safe_dump(data, default_flow_style=True, width=10**6)
    write_whole(folder / DATA, lambda temporary: temporary.write_text(line, encoding="utf-8"))


def handed_over(folder: Path, events: Events) -> Path:
    """The file, and how other runs get what it names."""
    path = folder / DATA
    events.said(f'data: {path} (hand it over with "data=$(cat {path})")')
    return path
