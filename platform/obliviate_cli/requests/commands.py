"""`obliviate request` and `obliviate certificate`, as they are typed. Heavy imports come after parsing."""

from pathlib import Path
from typing import Annotated

import typer

from obliviate_cli.mistakes import names_file

Config = Annotated[Path, typer.Argument(help="YAML file of the served model, its data and the policy.")]
Number = Annotated[int, typer.Argument(help="Of the request.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example alias=staging.")]

request = typer.Typer(help="Deletion requests: take them in, work them off, show them.", no_args_is_help=True)
certificate = typer.Typer(help="Certificates of fulfilled requests: keys, and checking.", no_args_is_help=True)


@request.command()
@names_file
def add(
    config: Config,
    requester: Annotated[str, typer.Option("--by", help="Who asks: an id that means nothing to others.")],
    texts: Annotated[Path | None, typer.Option(help="File of the questions and answers to forget.")] = None,
    entity: Annotated[str | None, typer.Option(help="Whom or what to forget: every row of the data about it.")] = None,
    overrides: Overrides = None,
) -> None:
    """Take a request into the ledger."""
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
    """Show all about one request."""
    from obliviate_cli.requests import verbs

    verbs.status(config, overrides or [], number)


@request.command()
@names_file
def retry(config: Config, number: Number, overrides: Overrides = None) -> None:
    """Let a failed request wait again, after a change of method or policy."""
    from obliviate_cli.requests import verbs

    verbs.retry(config, overrides or [], number)


@request.command()
@names_file
def run(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the config and what waits, and stop.")] = False,
) -> None:
    """Unlearn what is due, judge it by the policy, promote the model, and certify."""
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
    key: Annotated[Path | None, typer.Option(help="Public key of who is said to have signed it.")] = None,
) -> None:
    """Check that a certificate is whole, and whose it is."""
    from obliviate_cli.requests import verbs

    verbs.verify(path, key)
