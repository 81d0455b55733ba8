"""Whom or what questions are about."""

from collections.abc import Iterable

from pydantic import Field

from obliviate import storage
from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.schema import Spec


class Subject(Spec):
    """Somebody or something, and what is written about it; without texts the writer tells what it knows."""

    name: str = Field(min_length=1)
    texts: tuple[str, ...] = ()  # paths of plain text files; each is asked about by itself

    def read(self) -> list[str]:
        """Raises UserError for a file that is missing or is no text."""
        try:
            files = [storage.fetch(storage.local(path).expanduser()) for path in self.texts]
            return [file.read_text(encoding="utf-8").strip() for file in files]
        except OSError as error:
            raise UserError(f"texts: {error.filename}: {error.strerror}; give plain text files") from error
        except UnicodeDecodeError as error:
            raise UserError(f"texts of {self.name}: byte {error.start} is not UTF-8; give plain text files") from error


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The first row of each question: a second answer to it would be trained against the first."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(" ".join(row.question.split()).lower(), row)
    return list(first.values())
