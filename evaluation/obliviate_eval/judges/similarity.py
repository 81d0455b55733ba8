"""Cosine similarity of sentence embeddings (sentence-transformers)."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from obliviate_eval.judges import Pair
from obliviate_eval.judges.source import locate, quiet_transformers, unavailable

BATCH_SIZE = 64  # sentences
Floats = NDArray[np.float32]


class SentenceEncoder:
    """Each distinct sentence is embedded once, in batches of similar length.

    Sentences beyond the encoder's limit (128 tokens for the default) are compared by their beginning.
    """

    def __init__(self, source: str, key: str = "evaluation.encoder") -> None:
        """Raises UserError, with the config's key, where there is no such encoder."""
        from sentence_transformers import SentenceTransformer

        located = locate(key, source)
        try:
            with quiet_transformers():
                self._model = SentenceTransformer(located)
        except (OSError, ValueError) as error:
            raise unavailable(key, source, error) from error

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """The cosine of each pair, in [-1, 1]."""
        if not pairs:
            return []
        row = {sentence: i for i, sentence in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        unit_SD = self.embed(list(row))
        return [float(unit_SD[row[a]] @ unit_SD[row[b]]) for a, b in pairs]

    def embed(self, sentences: Sequence[str]) -> Floats:
        """Unit vectors: [S sentences, D features]."""
        return cast(
            Floats,
            self._model.encode(
                list(sentences), batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False
            ),
        )
