"""What `obliviate certificate` does: who checks one needs neither its config nor a ledger."""

from pathlib import Path

from obliviate_cli.console import open_console
from obliviate_recipes.requests import certificate


def make_key(path: Path) -> None:
    public = certificate.make_key(path)
    open_console().print(f"private key: {path} (keep it)\npublic key: {public} (give it to who checks certificates)")


def verify(path: Path, key: Path | None) -> None:
    console = open_console()
    statement, signer = certificate.verify(path, None if key is None else certificate.load_public_key(key))
    request = statement["request"]
    console.print(f"valid: {len(request['texts'])} texts of {request['requester']}, in service {statement['promoted']}")
    whose = "the given key" if key else "a key of its own: give --key to know whose it is"
    console.print(f"signed with {whose} ({signer})")
