"""Reference constants that several trainings share: a file that each adds to, so that no text is run twice.

Two trainings share a file where the model is the same, and what is kept of its texts; a text is known by what it says.
"""

import logging
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from obliviate import storage
from obliviate.methods import Needs
from obliviate.models import content_of
from obliviate.runs import content_hash, write_whole
from obliviate.schema import ModelSpec
from obliviate.train.batch import TextKey
from obliviate.train.reference import Reference, reference_needs

log = logging.getLogger(__name__)


class SharedReference:
    """`folder` holds one file for each kind of constants. For trainings of one worker: several would have to agree on
    what is known. Of two that end at once the later file stays, and what the other added is computed again.
    """

    def __init__(self, folder: Path, model: ModelSpec, needs: Needs) -> None:
        stats, hidden = reference_needs(needs)
        described = [
            model.model_dump(mode="json", exclude={"lora"}),  # adapters start as nothing
            content_of(model),
            {str(each): {str(stat): at for stat, at in of.items()} for each, of in stats.items()},
            {str(each): at for each, at in hidden.items()},
        ]
        self._path = folder / f"reference-{content_hash(described)[:16]}.pt"

    def load(self) -> Reference:
        """What earlier trainings left; nothing where there is no file, or a damaged one."""
        if not storage.fetch(self._path).exists() or not _sound(self._path):
            return Reference()
        found = torch.load(self._path, weights_only=False)
        return Reference(found["stats"], found["hidden"])

    def add(self, kept: Reference, before: int) -> None:
        """Write the file again where there is more than the `before` texts and statistics of `load`."""
        if size(kept) > before:
            content: dict[str, dict[TextKey, Tensor]] = {"stats": kept.stats, "hidden": kept.hidden}  # type: ignore[dict-item]
            write_whole(self._path, lambda path: torch.save(content, path))


def _sound(path: Path) -> bool:
    """By the checksums that a zip archive has of what is in it: torch writes them, and does not read them."""
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except (BadZipFile, OSError) as error:
        damaged = str(error)
    if damaged is not None:
        log.warning("%s: is damaged (%s): what it held is computed again", path, damaged)
    return damaged is None


def size(kept: Reference) -> int:
    return len(kept.stats) + len(kept.hidden)
