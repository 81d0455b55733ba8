"""Many requests from one file, one each line: who asks, and for an entity or for the texts of another file."""

from pathlib import Path

from obliviate.config_file import parse
from obliviate.data.tables import read_objects
from obliviate.errors import UserError
from obliviate.schema import Spec
from obliviate_recipes.requests.knowledge import Knowledge
from obliviate_recipes.requests.ledger import Asked


class Line(Spec):
    """The columns of a CSV file, or the keys of a line of JSON."""

    by: str
    entity: str | None = None
    texts: str | None = None  # path


def read_asked(path: Path, knowledge: Knowledge) -> list[Asked]:
    """Raises UserError, with the file and the line, for the first that is no request or asks for what nobody taught."""
    asked = []
    for where, record in read_objects(path):
        line = parse(Line, record, where)
        try:
            hashes = knowledge.find(None if line.texts is None else Path(line.texts), line.entity)
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('request: ')}") from error
        asked.append(Asked(line.by, hashes, where))
    if not asked:
        raise UserError(f"{path}: has no requests; give one a line, with by and with entity or texts")
    return asked
