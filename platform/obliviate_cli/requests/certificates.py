"""What `obliviate certificate` does: who checks one needs neither its config nor a ledger."""

from pathlib import Path

from obliviate_cli.console import open_console
from obliviate_recipes.requests import certificate


def make_key(path: Path) -> None:
    public = certificate.make_key(path)
    open_console().print(f"private key: {path} (keep it)\npublic key: {public} (give it to who checks certificates)")


def verify(path: Path, key: Path | None, authority: Path | None) -> None:
    console = open_console()
    statement, signer = certificate.verify(path, None if key is None else certificate.load_public_key(key))
    request = statement["request"]
    if statement["format"] == certificate.REFUSAL:
        what = f"refused {statement['refused']['when']}: {statement['refused']['reason']}"
    else:
        what = f"in service {statement['promoted']}"
    console.print(f"valid: {len(request['texts'])} texts of {request['requester']}, {what}")
    whose = "the given key" if key else "a key of its own: give --key to know whose it is"
    console.print(f"signed with {whose} ({signer})")
    if authority is not None:
        from obliviate_recipes.requests.timestamp import stamped

        console.print(f"stamped {stamped(path, authority).isoformat(timespec='seconds')}")
