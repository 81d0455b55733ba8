"""The command line. Heavy imports come after the arguments are parsed, so that `--help` answers at once."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from obliviate.errors import REFUSALS, UserError
from obliviate_cli.commands import Config, DryRun, Overrides, command, follow
from obliviate_cli.mistakes import names_file
from obliviate_cli.requests import commands as requests
from obliviate_recipes.catalogue import RECIPES, load

app = typer.Typer(
    help="Removes knowledge from language models and measures what was removed and what was kept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(requests.request, name="request")
app.add_typer(requests.certificate, name="certificate")

Address = Annotated[
    str, typer.Option(help="URL of the cluster's dashboard: http://HOST:8265.", envvar="RAY_API_SERVER_ADDRESS")
]


class ReportFormat(StrEnum):
    CSV = "csv"
    LATEX = "latex"
    MARKDOWN = "markdown"
    SVG = "svg"
    PDF = "pdf"


def _version(asked: bool) -> None:
    if asked:
        from obliviate import __version__

        typer.echo(f"obliviate {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Print it.")] = False,
) -> None:
    pass  # what it does is done by then


@app.command()
def demo(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Forget two fictitious people, measure it, and attack the models: `compare` and `attack` on built-in configs."""
    for verb, config in (("compare", "demo.yaml"), ("attack", "demo_attacks.yaml")):
        follow(load(verb, Path(__file__).with_name(config), overrides or []), dry_run)
        typer.echo()


for name in RECIPES:
    if name not in ("evaluate", "sweep"):
        app.command(name)(command(name))


@app.command()
def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG|MODEL... [KEY=VALUE]...",
            help="A YAML file; or models: folders, hub ids, runs by folder or by name.",
        ),
    ],
    suite: Annotated[str | None, typer.Option(help="The metrics to measure; see `obliviate metrics`.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder or hub id of the data; default: the suite's own.")] = None,
    retain: Annotated[
        str | None, typer.Option(help="A model that never saw the forget set, for forget quality.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Measure models side by side: what was removed, what was kept."""
    from obliviate_cli import evaluate

    evaluate.evaluate(what, suite, data, retain, dry_run)


@app.command()
def rescore(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluation runs, or of imported logs.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric, with its parameters: 'truth_ratio definition=tofu'. May be repeated."),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Another suite; default: the runs' own.")] = None,
    retain: Annotated[Path | None, typer.Option(help="The retain model's evaluation run.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A JSON file for the figures.")] = None,
    judge: Annotated[
        Path | None, typer.Option(help="A YAML file with the keys of evaluation.judge; the judge of the answers.")
    ] = None,
) -> None:
    """Compute figures from the records of finished evaluations, without the model."""
    from obliviate_cli.console import Terminal
    from obliviate_recipes import rescore

    rescore.rescore(runs, metric or [], suite, retain, output, judge, events=Terminal())


@app.command()
@names_file
def serve(config: Config, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Serve models over HTTP: OpenAI's API, probes and comparisons."""
    from obliviate_cli import serve as server

    server.serve(config, overrides or [], dry_run)


@app.command("serve-promote")
@names_file
def serve_promote(
    config: Config,
    alias: Annotated[str, typer.Argument(help="The name that clients use, for example production.")],
    model: Annotated[str, typer.Argument(help="The model of the config that the name should point to.")],
    overrides: Overrides = None,
) -> None:
    """Point a served name at another model, without a restart. Takes the overrides that the server was started with."""
    from obliviate_cli import serve as server

    server.promote(config, alias, model, overrides or [])


@app.command("serve-token")
def serve_token(
    name: Annotated[str, typer.Argument(help="The token's owner; the audit log shows it.")],
    role: Annotated[str, typer.Argument(help="query, probe or admin.")],
) -> None:
    """Make a bearer token for the server's token file."""
    from obliviate_cli import serve as server

    server.token(name, role)


@app.command()
@names_file
def submit(
    config: Config,
    address: Address,
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print the job's output; exit with its code.")] = False,
    verb: Annotated[str | None, typer.Option(help="The command to run; default: inferred from the config.")] = None,
    driver_cpus: Annotated[
        float | None,
        typer.Option(min=0, help="CPUs of the command itself, on any node; default: it runs on the head node."),
    ] = None,
) -> None:
    """Run a config as a job on a remote Ray cluster, in a copy of the current folder."""
    from obliviate_cli.jobs.client import use_token

    use_token()
    from obliviate_cli.console import open_console
    from obliviate_cli.jobs.submit import submit

    code = submit(config, overrides or [], address, open_console(), verb=verb, driver_cpus=driver_cpus, follow=follow)
    raise typer.Exit(code)


@app.command()
def attach(job: Annotated[str, typer.Argument(help="The job id that submit printed.")], address: Address) -> None:
    """Follow a submitted job; exit with its exit code."""
    from obliviate_cli.jobs.client import connect, use_token

    use_token()
    from obliviate_cli.console import open_console
    from obliviate_cli.jobs import follow

    raise typer.Exit(follow.attach(connect(address), job, address, open_console()))


class _RunByDefault(TyperGroup):
    """`obliviate sweep CONFIG` is short for `obliviate sweep run CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


sweep = typer.Typer(
    cls=_RunByDefault,
    help="Search methods and their parameters for the best trade-off of forgetting and utility: sweep CONFIG.",
    no_args_is_help=True,
)
app.add_typer(sweep, name="sweep")


sweep.command("run")(command("sweep"))


@sweep.command("keep")
@sweep.command("promote", hidden=True)  # what it was called
def sweep_keep(
    trial: Annotated[str, typer.Argument(help="The trial's id, as table and report show it, or its beginning.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; default: method and trial.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
) -> None:
    """Copy a trial's model to RUNS/models/NAME."""
    from obliviate_cli.console import Terminal
    from obliviate_recipes.sweeps.keep import keep

    keep(trial, name, runs, Terminal())


@app.command()
@names_file
def plan(
    config: Config,
    overrides: Overrides = None,
    gpu: Annotated[str, typer.Option(help="l4, a100, h100 or h200.")] = "h100",
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs in the cluster; default: as many as the config needs.")
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1)] = 8,
    network_gbit: Annotated[float, typer.Option(min=0.1, help="A node's bandwidth to other nodes, in Gbit/s.")] = 3200,
    utilization: Annotated[float, typer.Option(min=0.01, max=1, help="Measured share of a GPU's FLOP/s.")] = 0.4,
    manifest: Annotated[
        Path | None, typer.Option(help="Output of `kubectl kustomize`: its worker groups are the cluster.")
    ] = None,
) -> None:
    """Estimate what a config costs on a cluster of GPUs, and what limits it first."""
    from obliviate_cli import plan_command

    plan_command.plan(
        config, overrides or [], plan_command.Offer(gpu, gpus, gpus_per_node, network_gbit, utilization, manifest)
    )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluation runs, in the order of the report.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Unlearning report",
    form: Annotated[
        list[ReportFormat] | None,
        typer.Option("--format", help="Also write a table of all figures, or the charts. May be repeated."),
    ] = None,
) -> None:
    """Write one self-contained HTML file about evaluation runs and imported logs."""
    from obliviate_cli.console import Terminal
    from obliviate_recipes.pooled import report as write

    write(runs, output, title, [each.value for each in form or []], Terminal())


@app.command()
def paired(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluation run.")],
    second: Annotated[Path, typer.Argument(help="Folder of another run on the same items.")],
    suite: Annotated[str | None, typer.Option(help="The suite of metrics; default: the first run's.")] = None,
    retain: Annotated[
        Path | None, typer.Option(help="Run of the retain model, for metrics that compare with it.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A JSON file for the printed figures.")] = None,
) -> None:
    """Test whether two models differ, metric by metric, on the same items."""
    from obliviate_cli.console import Terminal
    from obliviate_recipes import paired

    paired.compare(first, second, suite, retain, output, Terminal())


@app.command()
def verify(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or a folder that runs are in.")],
) -> None:
    """Read all files of runs and say which are damaged or missing; exit with 1 if any is."""
    from obliviate_cli.console import Terminal
    from obliviate_recipes.verify import verify as verified

    raise typer.Exit(0 if verified(runs, Terminal()) else 1)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Folder of an unlearning or a fine-tuning, or of its model.")],
    repo: Annotated[str, typer.Argument(help="Where to: ORG/NAME on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; default: private.")] = False,
    records: Annotated[
        bool, typer.Option("--records", help="Each question and answer that was measured, too.")
    ] = False,
    license: Annotated[str | None, typer.Option(help="As the hub writes it; default: the base model's.")] = None,
) -> None:
    """Send a model, its card and its figures to the Hugging Face hub."""
    from obliviate.config_file import parse
    from obliviate.schema import PushSpec
    from obliviate_cli.console import Terminal
    from obliviate_recipes.push import push as pushed

    to = parse(PushSpec, {"repo": repo, "private": not public, "records": records, "license": license}, "push")
    pushed(run, to, Terminal())


@app.command("import")
def import_logs(
    framework: Annotated[str, typer.Argument(help="The framework of the logs: openunlearning or tofu.")],
    logs: Annotated[Path, typer.Argument(help="The log file.")],
    retain_logs: Annotated[Path | None, typer.Option(help="The retain model's log file, for forget quality.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for records and metrics.")] = None,
) -> None:
    """Import another framework's evaluation logs, and compute our figures from them."""
    from obliviate_cli import imports

    imports.import_logs(framework, logs, retain_logs, output)


Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these: names, or parts of a name or a title.")
]


@app.command()
def methods(names: Names = None) -> None:
    """List the forget objectives and regularizers, with their parameters."""
    from obliviate_cli import catalogue

    catalogue.methods(names or [])


@app.command()
def metrics(names: Names = None) -> None:
    """List the metrics and the suites that use them."""
    from obliviate_cli import catalogue

    catalogue.metrics(names or [])


@app.command()
def attacks(names: Names = None) -> None:
    """List the attacks of `obliviate attack`, with their parameters."""
    from obliviate_cli import catalogue

    catalogue.attacks(names or [])


def main() -> None:
    """A mistake of the user's and what a disk refuses are one line and exit code 2; anything else is a bug and keeps
    its traceback."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: see obliviate.cluster.THREADS_WAIT
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        print(
            f"error: {error.filename or 'a file'}: {error.strerror}; mend it and run the same command again: it goes "
            "on where it stopped",
            file=sys.stderr,
        )
        sys.exit(2)
