"""Which forget rows early drop left out of training on the way, and when, for terminal and card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from obliviate.data.rows import Row
from obliviate.runs import write_whole

DROPPED = "early_drop.jsonl"  # a line for each row: after which step, its number from 0, its question


def write_dropped(directory: Path, log: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> str:
    """What a training's log says of its forget rows, in words; every row goes to DROPPED."""
    found = [(line["step"], line["early_drop"]["dropped"]) for line in log if "early_drop" in line]
    lines = [
        {"step": step, "row": row, "question": rows[row].question or rows[row].answer}
        for step, dropped in found
        for row in dropped
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(directory / DROPPED, lambda path: path.write_text(text, encoding="utf-8", newline="\n"))
    when = ", ".join(f"{len(dropped)} after step {step}" for step, dropped in found if dropped)
    ended = f" None was left after step {log[-1]['step']} of {log[-1]['steps']}." if len(lines) == len(rows) else ""
    return (
        f"Early drop: {len(lines)} of {len(rows)} forget rows were no longer answered and left out of the rest of "
        f"training{f' ({when})' if when else ''}.{ended}"
    )


def dropped_section(directory: Path) -> list[str]:
    """Of a model card; empty for a training without early drop."""
    path = directory / DROPPED
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    title = f"{len(found)} forget rows were left out of training once the model no longer answered them."
    return ["## Left out on the way", "", title, "", *(f"- after step {x['step']}: {x['question']}" for x in found), ""]
