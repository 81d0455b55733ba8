"""What a sentence encoder tells a training: which retain rows are nearest to a forget row, and when it is forgotten.

Both are parts of iterative contrastive unlearning (arXiv:2407.20271) that any method can use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from obliviate.config import UnlearnRun
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.train.job import DropRule
from obliviate_eval.judges.similarity import Floats, SentenceEncoder
from obliviate_eval.words import spaced

BLOCK = 512  # forget rows compared with all retain rows at a time,
CELLS = 1 << 26  # as long as that is no more pairs than these, of 4 bytes each


def nearest_retain(config: UnlearnRun, corpus: Corpus) -> tuple[tuple[int, ...], ...] | None:
    """With `pairing: nearest`, the nearest retain rows of each forget row, the nearest first; else None.

    Nearest by the cosine of question and answer together, which orders unit vectors as their distance does.
    """
    if config.pairing != "nearest":
        return None
    return nearest(sentence_encoder(config.encoder), corpus.forget, corpus.retain, config.neighbours)


def nearest(
    encoder: SentenceEncoder, forget: Sequence[Row], retain: Sequence[Row], count: int
) -> tuple[tuple[int, ...], ...]:
    """Of each forget row the `count` nearest retain rows; of equally near ones the first."""
    return tuple(
        _largest(cosine_R, min(count, len(retain)))
        for cosine_BR in _cosines(encoder, forget, retain)
        for cosine_R in cosine_BR
    )


def _largest(values_R: Floats, count: int) -> tuple[int, ...]:
    """Their places, the largest first; of equal ones the first. Sorts few: a sort of all takes most of the time."""
    least = np.partition(values_R, -count)[-count]
    (places,) = np.nonzero(values_R >= least)
    ordered: list[int] = places[np.argsort(-values_R[places], kind="stable")][:count].tolist()
    return tuple(ordered)


def nearest_with_cosine(
    encoder: SentenceEncoder, forget: Sequence[Row], retain: Sequence[Row]
) -> list[tuple[str, float]]:
    """Of each forget row, what the nearest retain row asks (or, a plain text, says), and the cosine to it."""
    found = [
        (int(row.argmax()), float(row.max())) for cosine_BR in _cosines(encoder, forget, retain) for row in cosine_BR
    ]
    return [(retain[index].question or retain[index].answer, cosine) for index, cosine in found]


def _cosines(encoder: SentenceEncoder, forget: Sequence[Row], retain: Sequence[Row]) -> Iterator[Floats]:
    """[B, R], a block of forget rows at a time."""
    forget_FD, retain_RD = (encoder.embed([text_of(row) for row in rows]) for rows in (forget, retain))
    size = min(BLOCK, max(1, CELLS // max(1, len(retain))))
    for start in range(0, len(forget), size):
        yield forget_FD[start : start + size] @ retain_RD.T


def text_of(row: Row) -> str:
    """What is embedded of a row; a plain text has no question."""
    return f"{row.question} {row.answer}".strip()


@dataclass(frozen=True)
class Dissimilar:
    """Forgotten is what is said less like the truth than either threshold: the cosine of sentence embeddings, or
    BLEU (Papineni et al. 2002, without smoothing: 0 where no four words in a row are the true answer's)."""

    encoder: str
    cosine: float
    bleu: float
    max_new_tokens: int

    def __call__(self, rows: Sequence[Row], said: Sequence[str]) -> list[bool]:
        pairs = [(row.answer, text) for row, text in zip(rows, said, strict=True)]
        cosines = sentence_encoder(self.encoder)(pairs)
        return [c < self.cosine or bleu(*pair) < self.bleu for c, pair in zip(cosines, pairs, strict=True)]


def bleu(truth: str, said: str) -> float:
    """Of one sentence, in [0, 1]; n-grams no longer than what is said."""
    from sacrebleu import sentence_bleu

    return (
        float(sentence_bleu(spaced(said), [spaced(truth)], smooth_method="none", use_effective_order=True).score) / 100
    )


def drop_rule(config: UnlearnRun) -> DropRule | None:
    if config.early_drop is None:
        return None
    encoder = Path(config.encoder).expanduser()  # workers have another working directory
    source = str(encoder.absolute()) if encoder.is_dir() else config.encoder
    return Dissimilar(encoder=source, **config.early_drop.model_dump())


def check(config: UnlearnRun, corpus: Corpus) -> None:
    """Raises UserError for an encoder that is not there, which else would show hours later, for a plain text, to which
    nothing can be said and so nothing dropped, and where there are no retain rows to be near to."""
    if config.pairing == "nearest":
        if not corpus.retain:
            raise UserError("pairing: nearest: the data has no retain set to choose from; give data.retain")
        sentence_encoder(config.encoder)
    if config.early_drop is not None:
        for number, row in enumerate(corpus.forget, 1):
            if not row.question:
                raise UserError(
                    f"early_drop: forget row {number} is a plain text, to which no answer can be generated; give it a "
                    "question, or remove early_drop"
                )
        sentence_encoder(config.encoder)


@cache
def sentence_encoder(source: str) -> SentenceEncoder:
    return SentenceEncoder(source, "encoder")
