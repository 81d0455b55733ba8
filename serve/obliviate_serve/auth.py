"""Bearer tokens and what each is good for. The token file holds hashes, so that reading it gives nobody a token."""

import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from obliviate.errors import UserError
from obliviate_serve.stamp import stamp

log = logging.getLogger(__name__)

TOKEN_BYTES = 32  # random, so that a hash of it cannot be guessed back
SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Role(StrEnum):
    """Each may also do what the ones before it may."""

    QUERY = "query"  # models, completions, chat
    PROBE = "probe"  # probes, comparisons and their questions
    ADMIN = "admin"  # switching aliases

    def includes(self, other: "Role") -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Caller:
    name: str
    role: Role


ANYBODY = Caller("anybody", Role.ADMIN)  # where the server has no token file


class Tokens:
    """The callers of a file with lines `NAME ROLE SHA256`; `#` begins a comment. Read again when the file changes.

    Raises UserError where it is missing or malformed at the start. Later only what the file says now counts, so that
    no mistake in it keeps a revoked token: without a file nobody is known, and lines that are none are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = stamp(path)  # before it is read: what is written meanwhile is then read again
        self._callers = read_tokens(path)

    def caller(self, token: str) -> Caller | None:
        """Compared with every hash in constant time, so that how long it takes says nothing about any of them."""
        self._refresh()
        digest = token_hash(token)
        found = None
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _refresh(self) -> None:
        now = stamp(self._path)
        if now == self._seen:
            return
        self._seen = now
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            log.error("%s: cannot be read (%s): no token is valid until it can", self._path, error)
            text = ""
        self._callers, malformed = _parsed(text)
        if malformed:
            log.error("%s: left out, because they are not NAME ROLE SHA256: lines %s", self._path, malformed)


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token(name: str, role: Role) -> tuple[str, str]:
    """A token, and its line for the file."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, f"{name} {role} {token_hash(token)}"


def read_tokens(path: Path) -> dict[str, Caller]:
    """Hash -> caller. Raises UserError."""
    try:
        callers, malformed = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokens: {path}: cannot be read ({error}); write lines of NAME ROLE SHA256") from error
    if malformed:
        raise UserError(
            f"tokens: {path}: line {malformed[0]}: write NAME ROLE SHA256 with a role of {', '.join(Role)}; "
            "`obliviate serve-token NAME ROLE` prints one"
        )
    if not callers:
        raise UserError(f"tokens: {path}: holds no token; `obliviate serve-token NAME ROLE` prints one")
    return callers


def _parsed(text: str) -> tuple[dict[str, Caller], list[int]]:
    """Hash -> caller, and the numbers of the lines that are malformed."""
    callers: dict[str, Caller] = {}
    malformed = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) == 3 and words[1] in list(Role) and SHA256.fullmatch(words[2]):
            callers[words[2].lower()] = Caller(words[0], Role(words[1]))
        else:
            malformed.append(number)
    return callers, malformed
