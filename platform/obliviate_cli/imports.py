"""`obliviate import`: another framework's evaluation logs as records, and our figures from them."""

from pathlib import Path

from obliviate import storage
from obliviate.console_table import ConsoleTable
from obliviate.errors import UserError
from obliviate_cli.console import open_console
from obliviate_eval.importers.openunlearning import beside, openunlearning_figures, read_openunlearning_log
from obliviate_eval.importers.tofu import read_tofu_log
from obliviate_eval.records import RECORDS_FILE, write_records
from obliviate_eval.report.terminal import NOTHING
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, summarise
from obliviate_recipes.rescore import figures_table

IMPORTERS = {  # framework -> its logs' reader, the suite that computes what it computes
    "openunlearning": (read_openunlearning_log, SUITES["openunlearning"]),
    "tofu": (read_tofu_log, SUITES["tofu"]),
}


def import_logs(framework: str, logs: Path, retain_logs: Path | None, output: Path | None) -> None:
    """Prints the figures; of OpenUnlearning, those that it logged itself too, beside ours. With all digits they are in
    the metrics of `output`."""
    if framework not in IMPORTERS:
        raise UserError(f"{framework}: no importer; known: {', '.join(IMPORTERS)}")
    (read, suite), console = IMPORTERS[framework], open_console()
    logs = storage.fetch(storage.local(logs))
    records = read(logs)
    reference = None if retain_logs is None else read(storage.fetch(storage.local(retain_logs)))
    evaluation = summarise(records, suite, reference_records=reference)
    if output is not None:
        write_records(storage.local(output) / RECORDS_FILE, records)
        evaluation.write(storage.local(output) / METRICS_FILE)
    console.print(figures_table({framework: evaluation}, {framework: logs.name}))
    if framework == "openunlearning":
        table = ConsoleTable(caption="what the log says of itself, and what its records give")
        for title in ("", "logged", "from records"):
            table.add_column(title, justify="left" if title == "" else "right")
        for name, values in beside(openunlearning_figures(logs), evaluation).items():
            table.add_row(name, *(NOTHING if value is None else f"{value:.6g}" for value in values.values()))
        console.print(table)
