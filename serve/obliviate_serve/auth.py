"""Bearer tokens and what each is good for. The token file holds hashes, so that reading it gives nobody a token."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from obliviate.errors import UserError

TOKEN_BYTES = 32  # random, so that a hash of it cannot be guessed back


class Role(StrEnum):
    """Each may also do what the ones before it may."""

    QUERY = "query"  # models, completions, chat
    PROBE = "probe"  # probes and comparisons
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

    Raises UserError where it is missing or malformed at the start; a later broken version changes nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._callers = read_tokens(path)
        self._changed_ns = path.stat().st_mtime_ns

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
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                self._changed_ns = changed_ns
                self._callers = read_tokens(self._path)
        except (OSError, UserError):
            return


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token(name: str, role: Role) -> tuple[str, str]:
    """A token, and its line for the file."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, f"{name} {role} {token_hash(token)}"


def read_tokens(path: Path) -> dict[str, Caller]:
    """Hash -> caller. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokens: {path}: cannot be read ({error}); write lines of NAME ROLE SHA256") from error
    callers: dict[str, Caller] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or words[1] not in list(Role) or len(words[2]) != 64:
            raise UserError(
                f"tokens: {path}: line {number}: write NAME ROLE SHA256 with a role of {', '.join(Role)}; "
                "`obliviate serve-token NAME ROLE` prints one"
            )
        callers[words[2].lower()] = Caller(words[0], Role(words[1]))
    if not callers:
        raise UserError(f"tokens: {path}: holds no token; `obliviate serve-token NAME ROLE` prints one")
    return callers
