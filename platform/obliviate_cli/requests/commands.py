"""`obliviate request` and `obliviate certificate`, as they are typed. Heavy imports come after parsing."""

from pathlib import Path
from typing import Annotated

import typer

from obliviate_cli.mistakes import names_file
from obliviate_recipes.requests.states import RequestState

Config = Annotated[Path, typer.Argument(help="YAML file of the served model, its data and the policy.")]
Number = Annotated[int, typer.Argument(help="The request's number.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example alias=staging.")]

request = typer.Typer(help="Deletion requests: add, run, show and restore them.", no_args_is_help=True)
certificate = typer.Typer(help="Certificates of fulfilled requests: make a key, verify.", no_args_is_help=True)


@request.command()
@names_file
def init(config: Config, overrides: Overrides = None) -> None:
    """Make an empty ledger."""
    from obliviate_cli.requests import asked

    asked.init(config, overrides or [])


@request.command()
@names_file
def add(
    config: Config,
    requester: Annotated[
        str | None, typer.Option("--by", help="Id of the requester, which should mean nothing to others.")
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="File of the questions and answers to forget.")] = None,
    entity: Annotated[
        str | None, typer.Option(help="Person or thing to forget: every row of the data about it.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of many requests, JSON lines or CSV: by, and entity or texts.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Add a request to the ledger, or all of a file."""
    from obliviate_cli.requests import asked

    asked.add(config, overrides or [], requester, texts, entity, file)


@request.command("list")
@names_file
def list_requests(
    config: Config,
    overrides: Overrides = None,
    state: Annotated[RequestState | None, typer.Option(help="Only those in this state.")] = None,
    last: Annotated[int, typer.Option(min=0, help="How many, the newest; 0: all.")] = 100,
) -> None:
    """Show requests and their states."""
    from obliviate_cli.requests import shown

    shown.show(config, overrides or [], state, last)


@request.command()
@names_file
def due(
    config: Config,
    overrides: Overrides = None,
    within: Annotated[int, typer.Option(min=0, help="Days from now.")] = 7,
) -> None:
    """Show requests that must be answered soon; exit with 4 if there are any."""
    from obliviate_cli.requests import shown

    raise typer.Exit(shown.due(config, overrides or [], within))


@request.command()
@names_file
def status(config: Config, number: Number, overrides: Overrides = None) -> None:
    """Show one request in detail."""
    from obliviate_cli.requests import shown

    shown.status(config, overrides or [], number)


@request.command()
@names_file
def extend(
    config: Config,
    number: Number,
    reason: Annotated[str, typer.Option(help="Why it takes longer; certificates say so.")],
    overrides: Overrides = None,
) -> None:
    """Answer a request later than usual (certificates.extended_months)."""
    from obliviate_cli.requests import asked

    asked.extend(config, overrides or [], number, reason)


@request.command()
@names_file
def refuse(
    config: Config,
    number: Number,
    reason: Annotated[str, typer.Option(help="Why nothing is unlearned; the notice says so.")],
    overrides: Overrides = None,
) -> None:
    """Refuse a request, and sign a notice for whoever asked."""
    from obliviate_cli.requests import asked

    asked.refuse(config, overrides or [], number, reason)


@request.command()
@names_file
def purge(
    config: Config,
    overrides: Overrides = None,
    number: Annotated[
        list[int] | None, typer.Option("--request", help="Only this one, and now. May be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed, and stop.")] = False,
) -> None:
    """Remove what is left of the texts of fulfilled requests (retention)."""
    from obliviate_cli.requests import worked

    worked.purge(config, overrides or [], number or [], dry_run)


@request.command()
@names_file
def retry(config: Config, number: Number, overrides: Overrides = None) -> None:
    """Queue a failed request again, after a change of method or policy."""
    from obliviate_cli.requests import asked

    asked.retry(config, overrides or [], number)


@request.command()
@names_file
def run(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config and the pending requests, and stop.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another runner is at work.")] = False,
) -> None:
    """Unlearn pending requests, check the policy, promote the model, and certify."""
    from obliviate_cli.requests import worked

    if code := worked.run(config, overrides or [], dry_run, wait):
        raise typer.Exit(code)


@request.command("export")
@names_file
def export(
    config: Config,
    file: Annotated[Path, typer.Argument(help="The backup to write: JSON lines.")],
    overrides: Overrides = None,
) -> None:
    """Write all of the ledger to a file."""
    from obliviate_cli.requests import saved

    saved.export(config, overrides or [], file)


@request.command("import")
@names_file
def restore(
    config: Config,
    backup: Annotated[Path | None, typer.Option(help="A file that `request export` wrote.")] = None,
    certificates: Annotated[
        list[Path] | None, typer.Option(help="A certificate, or a folder with them: runs/requests. May be repeated.")
    ] = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key of certificates of before. May be repeated.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Restore a ledger from a backup, from certificates, or from both."""
    from obliviate_cli.requests import saved

    saved.restore(config, overrides or [], backup, certificates or [], key or [])


@certificate.command()
def key(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; the public one is PATH.pub.")],
) -> None:
    """Make an Ed25519 key to sign certificates with."""
    from obliviate_cli.requests import certificates

    certificates.make_key(path)


@certificate.command()
def verify(
    path: Annotated[Path, typer.Argument(help="The certificate's JSON file.")],
    key: Annotated[Path | None, typer.Option(help="Public key of the expected signer.")] = None,
    authority: Annotated[
        Path | None, typer.Option(help="PEM file of time stamping authorities: check its stamp, too.")
    ] = None,
) -> None:
    """Check that a certificate is intact, and who signed it."""
    from obliviate_cli.requests import certificates

    certificates.verify(path, key, authority)
