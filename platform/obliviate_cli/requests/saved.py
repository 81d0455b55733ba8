"""What `obliviate request export` and `import` do."""

from pathlib import Path

from obliviate import storage
from obliviate.config import load
from obliviate.errors import UserError
from obliviate_cli.console import open_console
from obliviate_recipes.requests import backup, certificate
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.opening import check
from obliviate_recipes.requests.restoring import restore_ledger
from obliviate_recipes.requests.spec import RequestsRun


def export(path: Path, overrides: list[str], file: Path) -> None:
    """Also of a ledger that knows less than the alias file does: it may be all that is left."""
    config, console = load(RequestsRun, path, overrides), open_console()
    ledger = Ledger(config.ledger)
    number = backup.export(ledger, storage.local(file))
    console.print(f"{file}: {number} requests of {ledger.name} ({ledger.identity})")


def restore(path: Path, overrides: list[str], file: Path | None, certificates: list[Path], keys: list[Path]) -> None:
    if file is None and not certificates:
        raise UserError("request: give a backup, or --certificates FOLDER, or both")
    config, console = load(RequestsRun, path, overrides), open_console()
    own = certificate.load_key(Path(config.key)).public_key() if certificates else None
    known = [*([] if own is None else [own]), *map(certificate.load_public_key, keys)]
    ledger = Ledger(config.ledger, create=True)
    signers = [certificate.signer(each) for each in known]
    restored, met = restore_ledger(ledger, config.alias, file, certificates, signers)
    console.print(f"ledger: {ledger.name} ({ledger.identity})")
    console.print(f"{restored} requests of the backup; certificates say of {met} more that they are met")
    check(config, ledger)
