"""`obliviate paired`: do two models differ? Tests on the records of their evaluations, without the models."""

from pathlib import Path

from obliviate import storage
from obliviate.errors import UserError
from obliviate_eval.asked import suite_of
from obliviate_eval.paired import paired
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.report.terminal import differences_table
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES
from obliviate_recipes.events import Events
from obliviate_recipes.rescore import measured_with, title_of


def compare(
    first: Path, second: Path, suite: str | None, retain: Path | None, output: Path | None, events: Events
) -> None:
    """`suite`: None takes the one that the first was evaluated with. Second less first."""
    first, second = (storage.fetch_loose(storage.local(run)) for run in (first, second))
    spec = measured_with(first)
    name = suite or spec["suite"]
    if name not in SUITES:
        raise UserError(f"--suite {name}: no such suite; there are {', '.join(SUITES)}")
    reference = None if retain is None else read_records(storage.fetch(storage.local(retain) / RECORDS_FILE))
    one, other = (read_records(run / RECORDS_FILE) for run in (first, second))
    draws = {key: spec[key] for key in ("resamples", "seed") if key in spec}
    asked = suite_of(EvaluationSpec.model_validate({**spec, "suite": name}))
    found = paired(one, other, asked, reference_records=reference, **draws)
    events.said(f"{title_of(second)} less {title_of(first)}")
    events.shown(differences_table(found))
    if output is not None:
        found.write(storage.local(output))
