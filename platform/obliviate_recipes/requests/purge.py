"""What is left of a fulfilled request's texts in the folder of runs is found by its content, and removed.

A file holds a text where it has both its question and its answer, plain or as JSON or HTML write them, in a table's
cells, or compressed. Pages embed their rows compressed in ways of their own: those of a run that held a text, and of
all runs that were made of it, go too. What a served model needs is never touched.
"""

import gzip
import html
import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from obliviate import storage
from obliviate.aliases import read_aliases
from obliviate.data.rows import Row, read_rows
from obliviate.digests import DIGESTS
from obliviate.errors import UserError
from obliviate.runs import LOCK_FILE
from obliviate_recipes.requests.knowledge import Knowledge
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.lineage import WEIGHTS, Runs, that_know
from obliviate_recipes.requests.reading import Request
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.states import NoteKind, RequestState

PAGES = (".html", ".htm")


@dataclass(frozen=True)
class Purge:
    """Of one request."""

    request: Request
    files: tuple[Path, ...]  # that hold a text; the copy that the search went by comes last
    models: tuple[tuple[str, str], ...]  # (run, folder in it) of weights that still know
    left: tuple[Path, ...]  # that hold a text and stay: of a model


@dataclass(frozen=True)
class Purger:
    config: RequestsRun
    ledger: Ledger
    knowledge: Knowledge

    @cached_property
    def root(self) -> Path:
        return storage.local(self.config.runs).absolute()

    @cached_property
    def runs(self) -> Runs:
        return Runs.read(self.root)

    def due(self, now_s: float, numbers: Collection[int] = ()) -> list[Request]:
        """The fulfilled requests of these numbers; without any, those that have been long enough and were not purged
        yet. Raises UserError for a number that is not fulfilled, and while a batch is at work."""
        alias = self.config.alias
        if running := self.ledger.requests(alias, state=RequestState.RUNNING):
            raise UserError(f"batch {running[0].batch}: is under way and needs the texts; purge when it has ended")
        fulfilled = {each.id: each for each in self.ledger.requests(alias, state=RequestState.FULFILLED)}
        if unfit := [number for number in numbers if number not in fulfilled]:
            state = self.ledger.request(alias, unfit[0]).state
            raise UserError(f"request {unfit[0]}: is {state}; only the texts of fulfilled ones can go")
        if numbers:
            return [fulfilled[number] for number in numbers]
        before_s = now_s - self.config.retention.days * 86_400
        return [
            each
            for each in fulfilled.values()
            if each.ended_s is not None
            and each.ended_s <= before_s
            and (self._copy(each).exists() or all(note.kind is not NoteKind.PURGED for note in each.notes))
        ]

    def find(self, asked: Sequence[Request]) -> list[Purge]:
        """What there is to remove of each: all files are read once."""
        texts = {each.id: self._texts(each) for each in asked}
        holding: dict[int, set[Path]] = {each.id: set() for each in asked}
        for path in self._files():
            strings = _strings(path)
            for number, rows in texts.items():
                if any(_holds(strings, row) for row in rows):
                    holding[number].add(path)
        return [self._purge(each, holding[each.id]) for each in asked]

    def told(self, purge: Purge, gone: str) -> Iterator[str]:
        """In words; `gone`: what became of the files."""
        for name in self._names(purge):
            yield f"{gone}: {name}"
        for path in purge.left:
            yield f"stays: {storage.name(path)} holds a text, and is part of a model"
        if not purge.files and not purge.models:
            yield f"nothing of its texts is left in {storage.name(self.root)}"
        if known := [text for text in purge.request.hashes if text in self.knowledge.rows]:
            yield f"{len(known)} of its texts are in the data still: remove those rows yourself"

    def remove(self, purge: Purge) -> None:
        """The ledger notes what goes before it does: one that is killed is begun again by the copy that goes last."""
        names = self._names(purge)
        if not names:
            return
        self.ledger.purged(purge.request.id, names)
        for run, folder in purge.models:
            storage.remove(self.root / run / folder)
        for path in purge.files:
            storage.remove_file(path)

    def _names(self, purge: Purge) -> list[str]:
        models = [self.root / run / folder for run, folder in purge.models]
        return [storage.name(path) for path in (*models, *purge.files)]

    def _copy(self, request: Request) -> Path:
        assert request.certificate is not None
        return storage.fetch(storage.local(request.certificate).parent / f"request-{request.id}.jsonl")

    def _texts(self, request: Request) -> tuple[Row, ...]:
        """By the copy in the batch's folder, or by the data. Raises UserError where neither has them."""
        copy = self._copy(request)
        if copy.exists():
            return read_rows(copy)
        found = [self.knowledge.rows[each] for each in request.hashes if each in self.knowledge.rows]
        if not found:
            raise UserError(
                f"request {request.id}: its texts are neither in {copy} nor in the data, so that nothing can be looked "
                "for; it was purged already, or by hand"
            )
        return tuple(found)

    def _purge(self, request: Request, holding: set[Path]) -> Purge:
        tainted = {path.relative_to(self.root).parts[0] for path in holding}
        pages = {
            path
            for name in (*tainted, *self.runs.made_of(tainted))
            for path in _pages(self.root / name)
            if name in self.runs.records
        }
        copy = self._copy(request)
        files = sorted((holding | pages) - {copy}) + [copy] * (copy in holding)
        left = tuple(path for path in files if (path.parent / DIGESTS).exists())
        return Purge(request, tuple(path for path in files if path not in left), self._models(request), left)

    def _models(self, request: Request) -> tuple[tuple[str, str], ...]:
        """Without those that an alias stands for."""
        if not self.config.retention.old_models:
            return ()
        before, after = self.ledger.models_before(request)
        served = {*read_aliases(Path(self.config.aliases)).values(), self.ledger.model_of(self.config.alias) or ""}
        kept = {self.runs.of_model(model) for model in served if model}
        known = that_know(self.runs, before, after)
        return tuple((run, folder) for run, folders in known.items() if run not in kept for folder in folders)

    def _files(self) -> Iterator[Path]:
        for name in sorted(storage.sizes(self.root)):
            if not name.endswith((*WEIGHTS, LOCK_FILE)):
                yield self.root / name


def _pages(folder: Path) -> list[Path]:
    return [folder / name for name in storage.sizes(folder) if name.endswith(PAGES)]


def _strings(path: Path) -> str:
    """All text of a file, whatever its kind."""
    content = storage.read_bytes(path)
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return _cells(pq.ParquetFile(io.BytesIO(content)).iter_batches())
    if path.suffix == ".arrow":
        import pyarrow as pa

        reader = pa.ipc.open_stream if content[:6] != b"ARROW1" else pa.ipc.open_file
        return _cells(reader(io.BytesIO(content)).read_all().to_batches())
    return content.decode("utf-8", errors="ignore")


def _cells(batches: Iterable[Any]) -> str:
    """Of pyarrow's record batches."""
    return "\n".join(json.dumps(batch.to_pylist(), ensure_ascii=False, default=str) for batch in batches)


def _holds(strings: str, row: Row) -> bool:
    return all(any(each in strings for each in _written(text)) for text in (row.answer, row.question) if text)


def _written(text: str) -> set[str]:
    """As files may have it."""
    return {
        text,
        *(json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)),
        html.escape(text),
        html.escape(text, quote=False),
    }
