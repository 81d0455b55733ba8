"""`obliviate request` and `obliviate certificate`, as they are typed. Heavy imports come after parsing."""

from pathlib import Path
from typing import Annotated

import typer

from obliviate_cli.mistakes import names_file

Config = Annotated[Path, typer.Argument(help="YAML file of the served model, its data and the policy.")]
Number = Annotated[int, typer.Argument(help="The request's number.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example alias=staging.")]

request = typer.Typer(help="Deletion requests: add, run and show them.", no_args_is_help=True)
certificate = typer.Typer(help="Certificates of fulfilled requests: make a key, verify.", no_args_is_help=True)


@request.command()
@names_file
def add(
    config: Config,
    requester: Annotated[str, typer.Option("--by", help="Id of the requester, which should mean nothing to others.")],
    texts: Annotated[Path | None, typer.Option(help="File of the questions and answers to forget.")] = None,
    entity: Annotated[
        str | None, typer.Option(help="Person or thing to forget: every row of the data about it.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Add a request to the ledger."""
    from obliviate_cli.requests import verbs

    verbs.add(config, overrides or [], requester, texts, entity)


@request.command("list")
@names_file
def list_requests(config: Config, overrides: Overrides = None) -> None:
    """Show every request and its state."""
    from obliviate_cli.requests import verbs

    verbs.show(config, overrides or [])


@request.command()
@names_file
def status(config: Config, number: Number, overrides: Overrides = None) -> None:
    """Show one request in detail."""
    from obliviate_cli.requests import verbs

    verbs.status(config, overrides or [], number)


@request.command()
@names_file
def retry(config: Config, number: Number, overrides: Overrides = None) -> None:
    """Queue a failed request again, after a change of method or policy."""
    from obliviate_cli.requests import verbs

    verbs.retry(config, overrides or [], number)


@request.command()
@names_file
def run(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config and the pending requests, and stop.")
    ] = False,
) -> None:
    """Unlearn pending requests, check the policy, promote the model, and certify."""
    from obliviate_cli.requests import verbs

    verbs.run(config, overrides or [], dry_run)


@certificate.command()
def key(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; the public one is PATH.pub.")],
) -> None:
    """Make an Ed25519 key to sign certificates with."""
    from obliviate_cli.requests import verbs

    verbs.make_key(path)


@certificate.command()
def verify(
    path: Annotated[Path, typer.Argument(help="The certificate's JSON file.")],
    key: Annotated[Path | None, typer.Option(help="Public key of the expected signer.")] = None,
) -> None:
    """Check that a certificate is intact, and who signed it."""
    from obliviate_cli.requests import verbs

    verbs.verify(path, key)
