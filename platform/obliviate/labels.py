"""What is said beside a model's name wherever it is shown: that something is hidden in it rather than removed."""

from pathlib import Path

from obliviate import storage
from obliviate.errors import UserError
from obliviate.guardrail import NOT_REMOVED, hides, label
from obliviate.models import locate
from obliviate.runs import RUN_FILE, record_of
from obliviate.schema import ModelSpec


def not_removed(model: ModelSpec) -> str | None:
    """By its guardrail, or by a method that one of our runs trained it with, or what it was trained on from; None where
    nothing hides anything."""
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
    made = record_of(record.parent)["config"]
    method = made.get("method")  # of an unlearning run; other runs have none
    if isinstance(method, dict) and hides(method):
        return f"{method['type']}, {NOT_REMOVED}"
    began = made.get("model")  # what is hidden there is still in what was trained on from it
    return None if began is None else not_removed(ModelSpec(source=began["source"]))
