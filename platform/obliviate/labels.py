"""What is said beside a model's name wherever it is shown: that something is hidden in it rather than removed."""

import json
from pathlib import Path

from obliviate import storage
from obliviate.errors import UserError
from obliviate.guardrail import HIDING, NOT_REMOVED, label
from obliviate.models import locate
from obliviate.runs import RUN_FILE
from obliviate.schema import ModelSpec


def not_removed(model: ModelSpec) -> str | None:
    """By its guardrail, or by the method that one of our runs trained it with; None where neither hides anything."""
    if model.guardrail is not None:
        return label(model.guardrail)
    try:
        # Of what a URL names, the record alone is fetched: the model itself may be large.
        folder = storage.local(model.source) if "://" in model.source else Path(locate(model.source))
        record = storage.fetch(folder.parent / RUN_FILE)
    except UserError:  # there is no such model (yet), or no such store: whoever loads it says so
        return None
    if not record.is_file():
        return None
    made = json.loads(record.read_text(encoding="utf-8"))
    method = made["config"].get("method")  # of an unlearning run; other runs have none
    if not isinstance(method, dict) or method["type"] not in HIDING:
        return None
    return f"{method['type']}, {NOT_REMOVED}"
