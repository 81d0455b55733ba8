"""Runs, models and data in an object store (s3://, gs://): each URL has a stand-in on this node's disk.

Libraries that train, generate and read tables want files. So a URL stands for a path in the user's cache: what is read
there is fetched first. What is written is uploaded when it is whole, and only then takes its place here: this disk has
nothing that the store has not, however a process ends. Functions that take a path do nothing for one that is no
stand-in, so that callers treat both alike. Whatever the store refuses is a UserError.

An object store knows files alone, and each is there whole or not at all. A folder that must be whole or not there (a
model, a checkpoint) carries a mark: written before its first file as unfinished, and again after its last as whole. A
reader takes a folder whose mark says whole, or that has none, as folders have that others uploaded.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obliviate import digests
from obliviate.errors import UserError
from obliviate.standins import is_path as is_path
from obliviate.standins import local as local
from obliviate.standins import name as name
from obliviate.standins import stores
from obliviate.standins import url_of as url_of
from obliviate.standins import user_cache as user_cache

READS = 10  # of a mark that is being replaced
MARK = ".folder.json"  # of a folder in a store: {"whole": false} while it is uploaded, then {"whole": true, "id": ...}


def for_ray(path: Path) -> tuple[str, Any]:
    """Storage path and filesystem as Ray takes them; the filesystem is None for a path of this disk."""
    url = url_of(path)
    if url is None:
        return str(path), None
    files, key = _open(url)
    return key, files


def fetch(path: Path) -> Path:
    """`path`, a file or a folder, after what the store has newer of it has come; nodes fetch either once.

    What is not there, or is an unfinished folder, is left as it is.
    """
    url = url_of(path)
    if url is None:
        return path
    from pyarrow.fs import FileType

    with _store(url) as (files, key):
        found = files.get_file_info(key)
        if found.type == FileType.File and not _is_here(path, found):
            with _lock(path):
                _get(files, found, path)
        elif found.type == FileType.Directory:
            with _lock(path):
                _fetch_folder(files, key, path)
    return path


def read_text(key: str, path: Path) -> str:
    """Of a file that the config's `key` names, without the mark that some editors put before it. Raises UserError for
    one that is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: {path}: byte {error.start} is not UTF-8; save it as UTF-8 text") from error


def fetch_loose(path: Path) -> Path:
    """`path`, a folder, after its files have come that belong to no folder with a mark: all of a run but its models."""
    if url_of(path) is not None:
        fetch_listed(path)
    return path


def fetch_listed(path: Path) -> dict[str, int]:
    """As `fetch_loose`; name -> bytes of all files, in the store for a stand-in, those of models too."""
    url = url_of(path)
    if url is None:
        return digests.sizes(path)
    with _store(url) as (files, key):
        listed = _list(files, key)
        marked = [info.path.removesuffix(MARK) for info in listed if info.base_name == MARK]
        for info in listed:
            if not info.path.startswith(tuple(marked)):
                _get(files, info, path / info.path.removeprefix(f"{key}/"))
        return {info.path.removeprefix(f"{key}/"): info.size for info in listed}


def sizes(path: Path) -> dict[str, int]:
    """Name -> bytes of all files below a folder, in the store for a stand-in. Nothing is fetched."""
    url = url_of(path)
    if url is None:
        return digests.sizes(path)
    with _store(url) as (files, key):
        return {info.path.removeprefix(f"{key}/"): info.size for info in _list(files, key)}


def digest(path: Path, *, stored: bool = False) -> str:
    """What a file's bytes come to: of the one that is here, or, where it is not or `stored` says so, of the store's."""
    url = url_of(path)
    if url is None or (path.exists() and not stored):
        return digests.digest(path)
    with _store(url) as (files, key), files.open_input_stream(key) as stream:
        return digests.digest_of(stream, path.name)


def read_bytes(path: Path) -> bytes:
    """Of a small file, as it is in the store, of which nothing is kept."""
    url = url_of(path)
    if url is None:
        return path.read_bytes()
    with _store(url) as (files, key), files.open_input_stream(key) as stream:
        return bytes(stream.read())


def is_removed(path: Path) -> bool:
    """Whether this disk has a file that the store has no more: somebody has removed it there."""
    url = url_of(path)
    if url is None or not path.exists():
        return False
    with _store(url) as (files, key):
        return not files.get_file_info(key).is_file


def upload(path: Path, content: Path | None = None) -> None:
    """A file that is whole: the one at `path`, or `content`, which is about to take its place."""
    url = url_of(path)
    if url is not None:
        with _store(url) as (files, key):
            _put(files, content or path, key)


def upload_tree(path: Path) -> None:
    """All files below a folder, which as a whole is never half: logs."""
    for file in sorted(path.rglob("*")) if url_of(path) is not None else ():
        if file.is_file():
            upload(file)


def upload_folder(path: Path, content: Path) -> None:
    """The folder `content`, which is whole and about to take the place of the one at `path`.

    Raises UserError also where another node has begun the same folder meanwhile, which removed what was uploaded.
    """
    url = url_of(path)
    if url is None:
        return
    begin_folder(path)
    mine = [file for file in sorted(content.rglob("*")) if file.is_file() and file.name != MARK]
    upload_into(path, mine, content)
    with _store(url) as (files, key):
        there = sum(info.base_name != MARK for info in _list(files, key))
    if there != len(mine):
        raise UserError(
            f"{url}: another process uploads this folder at the same time; run this again when it has ended"
        )
    (content / MARK).write_text(json.dumps(finish_folder(path)), encoding="utf-8")


def begin_folder(path: Path) -> None:
    """From now on the folder at `path` is unfinished, and none of its files is there."""
    url = url_of(path)
    if url is not None:
        with _store(url) as (files, key):
            _write(files, f"{key}/{MARK}", {"whole": False})
            for info in _list(files, key):
                if info.base_name != MARK:
                    files.delete_file(info.path)


def upload_into(path: Path, each: Iterable[Path], folder: Path) -> None:
    """Files below `folder` into the folder at `path`: of several workers, what each of them wrote."""
    url = url_of(path)
    if url is not None:
        with _store(url) as (files, key):
            for file in each:
                _put(files, file, f"{key}/{file.relative_to(folder).as_posix()}")


def finish_folder(path: Path) -> dict[str, Any]:
    """The folder at `path` is whole: all of its files are uploaded. Its mark, which tells it from any other there."""
    mark = {"whole": True, "id": uuid.uuid4().hex}
    url = url_of(path)
    if url is not None:
        with _store(url) as (files, key):
            _write(files, f"{key}/{MARK}", mark)
    return mark


def folders(path: Path) -> list[Path]:
    """The whole folders in `path`, by name: in the store for a stand-in, else on the disk, without hidden ones."""
    url = url_of(path)
    if url is None:
        return sorted(each for each in path.glob("[!.]*") if each.is_dir())
    with _store(url) as (files, key):
        marks = [info.path for info in _list(files, key) if re.fullmatch(rf"{re.escape(key)}/[^/]+/{MARK}", info.path)]
        whole = [Path(mark).parent.name for mark in marks if _says_whole(files, mark)]
    return [path / each for each in sorted(whole)]


def children(path: Path) -> list[Path]:
    """What lies directly in the folder, by name: in the store for a stand-in, else on the disk."""
    url = url_of(path)
    if url is None:
        return sorted(path.iterdir()) if path.is_dir() else []
    from pyarrow.fs import FileSelector

    with _store(url) as (files, key):
        return sorted(path / info.base_name for info in files.get_file_info(FileSelector(key, allow_not_found=True)))


def is_folder(path: Path) -> bool:
    """Whether there is a folder that a reader would take, here or in the store. Nothing is fetched."""
    url = url_of(path)
    if url is None:
        return path.is_dir()
    with _store(url) as (files, key):
        listed = {info.path for info in _list(files, key)}
        mark = f"{key}/{MARK}"
        return _says_whole(files, mark) if mark in listed else bool(listed) and not _in_unfinished(files, key)


def remove(path: Path) -> None:
    """A folder, here and in the store, where it and those in it are unfinished before the first file goes."""
    url = url_of(path)
    shutil.rmtree(path, ignore_errors=True)
    if url is not None:
        with _store(url) as (files, key):
            if listed := {info.path for info in _list(files, key)}:
                marks = {f"{key}/{MARK}", *(each for each in listed if each.endswith(f"/{MARK}"))}
                for mark in marks:
                    _write(files, mark, {"whole": False})
                for each in (*(listed - marks), *marks):
                    files.delete_file(each)


def remove_file(path: Path) -> None:
    """Here and in the store, of which it goes first: what is there is what is."""
    url = url_of(path)
    if url is not None:
        with _store(url) as (files, key):
            if files.get_file_info(key).is_file:
                files.delete_file(key)
    path.unlink(missing_ok=True)


@cache
def _filesystem(scheme: str, bucket: str) -> Any:
    """Credentials, region and endpoint are those of the environment, as the stores' own tools read them."""
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:  # from_uri would ask Amazon where the bucket lies
        parts = urlsplit(endpoint)
        return fs.S3FileSystem(scheme=parts.scheme, endpoint_override=parts.netloc)
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}/")[0]


def _open(url: str) -> tuple[Any, str]:
    """The filesystem, and what it calls the URL's place."""
    scheme, _, key = url.partition("://")
    return _filesystem(scheme, key.partition("/")[0]), key.rstrip("/")


@contextmanager
def _store(url: str) -> Iterator[tuple[Any, str]]:
    """What `_open` gives; raises UserError where the store fails in the meantime."""
    import pyarrow as pa

    try:
        yield _open(url)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{url}: the store cannot be read or written ({reason}); check the bucket's name, the credentials in the "
            "environment (AWS_..., GOOGLE_APPLICATION_CREDENTIALS) and, of another S3 than Amazon's, AWS_ENDPOINT_URL"
        ) from error


def _lock(path: Path) -> Any:
    from filelock import FileLock

    locks = stores().with_name("locks")  # not beside it: what lies there is copied and read as a whole
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / hashlib.sha256(str(path).encode()).hexdigest())


def _list(files: Any, key: str) -> list[Any]:
    """All files below."""
    from pyarrow.fs import FileSelector, FileType

    found = files.get_file_info(FileSelector(key, allow_not_found=True, recursive=True))
    return [info for info in found if info.type == FileType.File]


def _fetch_folder(files: Any, key: str, path: Path) -> None:
    listed = _list(files, key)
    if not any(info.path == f"{key}/{MARK}" for info in listed):  # somebody else's: its files alone tell what is new
        for info in listed if not _in_unfinished(files, key) else ():
            _get(files, info, path / info.path.removeprefix(f"{key}/"))
        return
    mark = _read(files, f"{key}/{MARK}")
    here = path / MARK
    if not mark["whole"] or (here.exists() and json.loads(here.read_text(encoding="utf-8")) == mark):
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        for info in listed:
            if info.base_name != MARK:
                _get(files, info, temporary / info.path.removeprefix(f"{key}/"))
        if damage := digests.damage_of_folder(temporary):
            name, what = next(iter(damage.items()))
            raise OSError(f"{name} {what}; remove this folder, and what made it makes it again")
        (temporary / MARK).write_text(json.dumps(mark), encoding="utf-8")
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_here(path: Path, info: Any) -> bool:
    """Whether the disk has this very file, or a newer one: one that is still being written here."""
    if not path.is_file():
        return False
    here = path.stat()
    return bool((here.st_mtime_ns, here.st_size) == (info.mtime_ns, info.size) or here.st_mtime_ns > info.mtime_ns)


def _get(files: Any, info: Any, path: Path) -> None:
    if _is_here(path, info):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _copy(info.path, str(temporary), source=files)
        os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _put(files: Any, path: Path, key: str) -> None:
    """The file then has the object's time, which tells it from a newer one of another node."""
    if files.type_name == "local":  # a folder used like a store: a file is there whole or not at all
        Path(key).parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{Path(key).parent}/.{uuid.uuid4().hex}.tmp"
        _copy(str(path), temporary, destination=files)
        files.move(temporary, key)
    else:
        _copy(str(path), key, destination=files)
    info = files.get_file_info(key)
    if info.size != path.stat().st_size:
        files.delete_file(key)
        raise OSError(f"{info.size} of {path.stat().st_size} bytes have arrived")
    os.utime(path, ns=(info.mtime_ns, info.mtime_ns))


def _copy(source_path: str, destination_path: str, *, source: Any = None, destination: Any = None) -> None:
    from pyarrow.fs import LocalFileSystem, copy_files

    here = LocalFileSystem()
    copy_files(
        source_path, destination_path, source_filesystem=source or here, destination_filesystem=destination or here
    )


def _in_unfinished(files: Any, key: str) -> bool:
    """Whether the folder that it lies in is unfinished: a promoted model is uploaded with its whole run."""
    around, _, _ = key.rpartition("/")
    if not around:  # a whole bucket
        return False
    mark = files.get_file_info(f"{around}/{MARK}")
    return bool(mark.is_file) and not _says_whole(files, mark.path)


def _says_whole(files: Any, mark: str) -> bool:
    try:
        return bool(_read(files, mark)["whole"])
    except FileNotFoundError:  # removed since it was listed
        return False


def _write(files: Any, key: str, value: dict[str, Any]) -> None:
    if files.type_name == "local":
        Path(key).parent.mkdir(parents=True, exist_ok=True)
    with files.open_output_stream(key) as stream:
        stream.write(json.dumps(value).encode())


def _read(files: Any, key: str) -> dict[str, Any]:
    """A mark. A stream asks for size and bytes apart: one that is replaced meanwhile is read again."""
    for _ in range(READS):
        try:
            with files.open_input_stream(key) as stream:
                value: dict[str, Any] = json.loads(stream.read())
        except FileNotFoundError:
            raise
        except (OSError, json.JSONDecodeError) as error:  # the stream breaks off, or half of one mark ends in the other
            wrong = error
            continue
        return value
    raise OSError(f"{key} is no mark: {wrong}")
