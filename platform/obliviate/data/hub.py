"""Rows of a data set, from the Hugging Face hub or from a local folder laid out like it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from obliviate import storage
from obliviate.data.tables import read_objects
from obliviate.errors import UserError

OPTIONS = 4  # of a multiple-choice question


def load_objects(source: str, subset: str, split: str, also: Sequence[str] = ()) -> list[tuple[str, Any]]:
    """(Where it stands, for messages; the row) of each row of one split.

    A folder holds SUBSET/SPLIT.json, .jsonl or .parquet, or the hub's SUBSET/SPLIT-00000-of-00001.parquet. `also`: what
    the data set's own repository may call that file, without its suffix.
    Raises UserError where there is no such file, or the hub does not answer.
    """
    folder = storage.fetch(storage.local(source).expanduser())
    if not folder.is_dir():
        if storage.is_path(source):
            raise UserError(f"data.source: {source}: no such folder; give a folder with {subset}/{split}.jsonl")
        return [
            (f"{source} {subset}/{split}, row {n}", row) for n, row in enumerate(load_hub(source, subset, split), 1)
        ]
    kinds = ("json", "jsonl", "parquet")
    names = (f"{subset}/{split}", *also)
    found = [path for name in names for kind in kinds if (path := folder / f"{name}.{kind}").is_file()][:1]
    found = found or [path for name in names for path in sorted(folder.glob(f"{name}-*.parquet"))]
    if not found:
        raise UserError(f"data.source: {source}: has no {' or '.join(names)}.json, .jsonl or .parquet; add it")
    return [row for path in found for row in read_objects(path)]


def load_hub(source: str, subset: str, split: str) -> list[Any]:
    """Raises UserError where the hub does not answer or has no such rows."""
    from datasets import load_dataset

    with _hub_errors(source, subset):
        return list(load_dataset(source, subset, split=split))


def load_file(source: str, path: str) -> list[tuple[str, Any]]:
    """(Where it stands; the row) of each row of one of the hub's files, which no subset names. Raises as `load_hub`."""
    from datasets import load_dataset

    with _hub_errors(source, path):
        rows = list(load_dataset(source, data_files=path, split="train"))
    return [(f"{source} {path}, row {n}", row) for n, row in enumerate(rows, 1)]


@contextmanager
def _hub_errors(source: str, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"data.source: {source}: neither a local folder nor readable from the hub ({what}: {reason}); "
            "give a folder with its files"
        ) from error


def rows_of(path: str, subset: str | None, split: str) -> Iterator[tuple[str, Any]]:
    """(Where it stands, for messages; the row) of each row of a data set's part, streamed: nothing is copied to disk.

    `path`: a hub id, or a folder that is laid out like one. Raises UserError where there is none, where it has no such
    subset or split, and where it has several subsets and none is named.
    """
    from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset

    folder = storage.fetch(storage.local(path).expanduser())
    if not folder.is_dir() and storage.is_path(path):
        raise UserError(f"{path}: no such folder; give a folder that `datasets` can load, or a hub id")
    source = str(folder) if folder.is_dir() else path
    try:
        subsets = get_dataset_config_names(source)
        if subset not in subsets and (subset is not None or len(subsets) > 1):
            what = "has several subsets" if subset is None else f"has no subset {subset!r}"
            raise UserError(f"{path}: {what}; name one of {', '.join(subsets)}")
        splits = get_dataset_split_names(source, subset)
        if split not in splits:
            raise UserError(f"{path}: has no split {split!r}; name one of {', '.join(splits)}")
        part = f"{path} {subset}/{split}" if subset else f"{path} {split}"
        for number, row in enumerate(load_dataset(source, subset, split=split, streaming=True), 1):
            yield f"{part}, row {number}", row
    except UserError:  # a ValueError too
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: no data set in a folder or on the hub ({reason}); give a folder with it") from error


def text_of(row: Any, key: str, where: str) -> str:
    """A row's text, of an object or of a list of plain texts. Raises UserError where there is none."""
    value = row if isinstance(row, str) and key == "text" else row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: has no text as '{key}' (found: {found}); give the data set's own files")
    return value


def texts_of(row: Any, key: str, where: str) -> list[str]:
    """A row's texts, of a list or of one text. Raises UserError where there is none."""
    value = row.get(key) if isinstance(row, Mapping) else None
    given = value if isinstance(value, list) else [value]
    texts = [text for text in given if isinstance(text, str) and text.strip()]
    if not given or len(texts) < len(given):
        raise UserError(f"{where}: '{key}' is {value!r}; make it a text, or a list of texts")
    return texts


def choices_of(row: Any, where: str) -> tuple[list[str], int]:
    """The four options of a question, and the place of the right one. Raises UserError where they are not."""
    choices, right = (row.get(key) if isinstance(row, Mapping) else None for key in ("choices", "answer"))
    if not isinstance(choices, list) or len(choices) != OPTIONS:
        raise UserError(f"{where}: 'choices' is {choices!r}; make it a list of {OPTIONS} options")
    if not isinstance(right, int) or not 0 <= right < OPTIONS:
        raise UserError(f"{where}: 'answer' is {right!r}; make it the number of the right option, from 0 to 3")
    return texts_of(row, "choices", where), right
