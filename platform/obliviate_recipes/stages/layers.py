"""Layered unlearning (arXiv:2505.09500): the forget set in k folds, and k trainings one after another.

The i-th forgets the folds 1 to i and keeps, beside the retain set, the folds that are still to come. So each fold is
forgotten while others like it are kept, and relearning one of them brings back less of those before it. Folds are drawn
by the run's seed; each training is one of the same method, from the model of the last.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from obliviate.config import UnlearnRun
from obliviate.data.rows import Corpus
from obliviate.errors import UserError


def layered(corpus: Corpus, folds: int, seed: int) -> Iterator[Corpus]:
    """What each of the trainings is given, in order. Raises UserError where there are fewer rows than folds."""
    rows = len(corpus.forget)
    if rows < folds:
        raise UserError(f"layers.folds: {folds}: the forget set has {rows} rows; give at most as many folds")
    fold_of = np.empty(rows, dtype=int)
    for number, part in enumerate(np.array_split(np.random.default_rng([seed, rows]).permutation(rows), folds)):
        fold_of[part] = number
    for last in range(folds):
        forget = tuple(row for row, fold in zip(corpus.forget, fold_of, strict=True) if fold <= last)
        coming = tuple(row for row, fold in zip(corpus.forget, fold_of, strict=True) if fold > last)
        yield replace(corpus, forget=forget, retain=(*corpus.retain, *coming))


def layer(config: UnlearnRun, number: int, source: str) -> UnlearnRun:
    """The run of one training, from the model at `source`; empty: from that of the config."""
    model = config.model if not source else config.model.at(source).model_copy(update={"revision": None})
    name = f"{config.name or f'{config.label}-{config.data.type}'}-layer-{number}"
    return config.model_copy(update={"layers": None, "model": model, "name": name})
