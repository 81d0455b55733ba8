"""The stand-in of a URL: the path in the user's cache that libraries read and write in its place."""

import os
import re
from pathlib import Path

from obliviate.errors import UserError

# The third is a folder used like a store, for tests and for disks that are mounted at other places on other nodes.
_URL = re.compile(r"(s3|gs|file):/+(.+)")  # a Path has made one of two slashes
_LIKE_A_URL = re.compile(r"[A-Za-z][\w+.-]*:/.*")


def local(given: str | Path) -> Path:
    """The stand-in of a URL; a path as it is. Nothing is fetched. Raises UserError for a URL of any other kind."""
    url = _URL.fullmatch(str(given))
    if url is None and _LIKE_A_URL.fullmatch(str(given)):  # as a path it would be a folder `gcs:` in this one
        raise UserError(f"{given}: is no URL of a store; give s3://BUCKET/KEY, gs://BUCKET/KEY, file:///KEY, or a path")
    if url is None:
        return Path(given)
    scheme, key = url.groups()
    if ".." in key.split("/"):
        raise UserError(f"{given}: a URL with '..' in it; write the key that it comes to")
    return stores() / scheme / key


def is_path(source: str) -> bool:
    """Whether it is written as a path or a URL: a hub id has one slash at most, and neither begins nor ends so."""
    return source.startswith((".", "/", "~")) or source.endswith("/") or source.count("/") > 1


def url_of(path: Path) -> str | None:
    """What a stand-in stands for; None for any other path."""
    path = path.absolute()
    if not path.is_relative_to(stores()):
        return None
    scheme, *key = path.relative_to(stores()).parts
    return f"{scheme}://{'/' if scheme == 'file' else ''}{'/'.join(key)}"


def name(path: Path) -> str:
    """What a path is called on every node: the URL of a stand-in, else the absolute path."""
    return url_of(path) or str(path.absolute())


def user_cache() -> Path:
    """What may be lost without harm lies here."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser().absolute() / "obliviate"


def stores() -> Path:
    """What stands in lies here, by scheme and key."""
    return user_cache() / "stores"
