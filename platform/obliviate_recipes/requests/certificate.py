"""Certificates of fulfilled requests: what was forgotten, when, how, what was measured; signed with Ed25519 (RFC 8032).
Notices of refused ones are made alike, and say why.

A certificate is a JSON file of three parts: the statement, the public key, and the signature of the statement's
canonical form (keys sorted, no white space, UTF-8). The HTML beside it shows the same statement to a reader; only the
JSON is evidence. A signature says who states the figures, and that nobody changed them since; it is no proof that they
are right: for that the statement names what reproduces them.
"""

import base64
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from obliviate import storage
from obliviate.aliases import Mark
from obliviate.config_file import parse
from obliviate.errors import UserError
from obliviate.runs import write_json, write_whole

FORMAT, REFUSAL = "obliviate certificate 1", "obliviate refusal 1"
PARTS = {"statement", "public_key", "signature"}
STATED = {  # what a statement always has
    FORMAT: {"request", "promoted", "model", "method", "hashes", "policy", "measurements", "code"},
    REFUSAL: {"request", "refused", "model", "notice", "clock", "code"},
}
PAGES = {FORMAT: "certificate.html.j2", REFUSAL: "refusal.html.j2"}


class Stated(Mark):
    """What a certificate says of the ledger that it was made from."""

    requests: tuple[int, ...]  # that the batch met: each has a certificate


def make_key(path: Path) -> Path:
    """A new private key at `path`, readable by its owner alone; the path of its public key, `path`.pub.

    Raises UserError where there is a file already.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = path.with_name(f"{path.name}.pub")
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except FileExistsError as error:
        raise UserError(f"key: {path}: is there already; certificates signed with it would lose their key") from error
    except OSError as error:
        raise UserError(f"key: {path}: cannot be written ({error.strerror}); give another path") from error
    return public


def load_key(path: Path) -> Ed25519PrivateKey:
    """Raises UserError for a file that is missing or holds no Ed25519 private key without a password."""
    try:
        key = load_pem_private_key(path.expanduser().read_bytes(), password=None)
    except OSError as error:
        raise UserError(f"key: {path}: {error.strerror}; `obliviate certificate key {path}` makes one") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"key: {path}: no private key in PEM without a password; give an Ed25519 one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"key: {path}: is a {type(key).__name__}; give an Ed25519 private key")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Raises UserError for a file that is missing or holds no Ed25519 public key."""
    try:
        key = load_pem_public_key(path.expanduser().read_bytes())
    except OSError as error:
        raise UserError(f"key: {path}: {error.strerror}; give the public key of who signed the certificate") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"key: {path}: no public key in PEM; give the .pub file of who signed") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"key: {path}: is a {type(key).__name__}; give an Ed25519 public key")
    return key


def write_certificate(
    folder: Path, name: str, statement: dict[str, Any], key: Ed25519PrivateKey, kind: str = FORMAT
) -> Path:
    """`name`.json and `name`.html in `folder`; the path of the JSON. The same statement gives the same files."""
    statement = {"format": kind, **statement}
    public = _raw(key.public_key())
    signed = {
        "statement": statement,
        "public_key": base64.b64encode(public).decode(),
        "signature": base64.b64encode(key.sign(canonical(statement))).decode(),
    }
    html = (
        Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
        .get_template(PAGES[kind])
        .render(**signed, fingerprint=fingerprint(public), file=f"{name}.json")
    )
    path = folder / f"{name}.json"
    write_json(path, signed)
    write_whole(folder / f"{name}.html", lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return path


def verify(path: Path, public_key: Ed25519PublicKey | None = None) -> tuple[dict[str, Any], str]:
    """The statement and the fingerprint of the key that signed it.

    Without `public_key` the certificate's own key is taken: that shows that it is whole, not who signed it. Raises
    UserError where the file is no certificate, was changed, or was signed with another key.
    """
    try:
        text = storage.fetch(storage.local(path)).read_text(encoding="utf-8")
        signed = json.loads(text, object_pairs_hook=_unique)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the JSON file of a certificate") from error
    except _TwiceError as error:
        raise UserError(
            f"{path}: the signature does not fit: {error} stands there twice, so that two readers could read two things"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON; give the JSON file of a certificate, not its HTML") from error
    if not isinstance(signed, dict) or set(signed) != PARTS or not isinstance(signed["statement"], dict):
        raise UserError(f"{path}: no certificate; it must hold {', '.join(sorted(PARTS))} and nothing else")
    try:
        own, signature = (base64.b64decode(signed[part], validate=True) for part in ("public_key", "signature"))
        given = own if public_key is None else _raw(public_key)
        Ed25519PublicKey.from_public_bytes(own).verify(signature, canonical(signed["statement"]))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: the signature does not fit: the certificate was changed after it was signed"
        ) from error
    if given != own:
        raise UserError(f"{path}: was signed with the key {fingerprint(own)}, not with {fingerprint(given)}")
    kind = signed["statement"].get("format")
    if kind not in STATED:
        raise UserError(f"{path}: is a {kind!r}; this version reads {', '.join(map(repr, STATED))}")
    if lacking := STATED[kind] - set(signed["statement"]):
        raise UserError(f"{path}: its statement lacks {', '.join(sorted(lacking))}; {kind!r} never does")
    request = signed["statement"]["request"]
    if not isinstance(request, dict) or not isinstance(request.get("texts"), list) or "requester" not in request:
        raise UserError(f"{path}: its request must be an object with requester and texts; {kind!r} always has both")
    return signed["statement"], fingerprint(own)


def ledger_of(path: Path, statement: dict[str, Any]) -> Stated | None:
    """What the certificate says of its ledger; None for one of before they did. Raises UserError."""
    if (stated := statement.get("ledger")) is None:
        return None
    return parse(Stated, stated, f"{path}: its statement's ledger")


class _TwiceError(ValueError):
    """A key that is given twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two equal keys one is signed and the other may say anything."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(repr(key))
        found[key] = value
    return found


def canonical(statement: dict[str, Any]) -> bytes:
    """What is signed: the same bytes for the same statement, however its file is laid out."""
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="surrogatepass")


def signer(key: Ed25519PublicKey) -> str:
    """How `verify` calls it."""
    return fingerprint(_raw(key))


def fingerprint(public: bytes) -> str:
    return f"SHA-256 {sha256(public).hexdigest()[:32]}"


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
