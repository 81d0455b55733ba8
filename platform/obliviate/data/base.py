"""What a source of data is."""

from abc import ABC, abstractmethod

from obliviate.data.rows import Corpus
from obliviate.schema import Spec


class Data(Spec, ABC):
    """A config's `data`: each source is one of these."""

    type: str

    @abstractmethod
    def load(self) -> Corpus:
        """What to forget, to keep and to measure on. Raises UserError, its line beginning with the config's key."""
