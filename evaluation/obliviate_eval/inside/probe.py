"""A linear probe: do hidden states tell a true answer from a false one, whatever the model says?

A logistic regression reads a layer's state at the last token of question and answer (after Lynch et al. 2024,
arXiv:2402.16835, who probe answers by letter). All answers to a question are on one side of a fold, so that a probe is
never asked about a fact that it was trained on.

Shapes: I rows, A answers of a row (the true one first), L layers, D hidden size, K folds, N states.
"""

from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
LEAST = 3  # folds: one to measure, one to choose the layer by, one to train on

Floats = NDArray[np.float64]


def probed(states: Sequence[Floats], seed: int, penalty: float = 1.0) -> list[float | None]:
    """Of each row, [A, L, D], the share of its false answers that a probe trained on other rows takes to be less true
    than its true one (ties count half): 1 where the fact is there to be read, 0.5 by chance.

    The layer of a fold is the one that does best on the other folds, by probes that have seen neither it nor them.
    `penalty`: weight of the squared norm of the probe's coefficients. None for all where no layer's states are finite
    (a collapsed model). Takes `LEAST` rows.
    """
    finite_L = np.all([np.isfinite(each).all(axis=(0, 2)) for each in states], axis=0)
    if not finite_L.any():
        return [None] * len(states)
    kept = [each[:, finite_L] for each in states]
    folds = _folds(len(states), seed)
    layers = range(int(finite_L.sum()))
    # Of rows of fold i by a probe that saw neither i nor j: the layer of fold j is chosen by these.
    apart: dict[tuple[int, int], list[float]] = {}
    for i, j in combinations(range(len(folds)), 2):
        for layer in layers:
            judge = _fitted([kept[row][:, layer] for row in _but(folds, {i, j})], penalty)
            for measured, held in ((i, j), (j, i)):
                scores = [_told(judge, kept[row][:, layer]) for row in folds[measured]]
                apart.setdefault((held, layer), []).extend(scores)
    found: list[float | None] = [None] * len(states)
    for held, rows in enumerate(folds):
        best = max(layers, key=lambda layer: float(np.mean(apart[held, layer])))
        judge = _fitted([kept[row][:, best] for row in _but(folds, {held})], penalty)
        for row in rows:
            found[row] = _told(judge, kept[row][:, best])
    return found


def _folds(count: int, seed: int) -> list[list[int]]:
    order = list(range(count))
    Random(seed).shuffle(order)
    folds = min(FOLDS, count)
    return [order[start::folds] for start in range(folds)]


def _but(folds: Sequence[Sequence[int]], held: set[int]) -> list[int]:
    return [row for number, fold in enumerate(folds) if number not in held for row in fold]


def _fitted(rows: Sequence[Floats], penalty: float) -> Any:
    """A probe of these rows' answers, [A, D] each; true and false ones weigh the same in all."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states_ND = np.concatenate(rows)
    true_N = np.concatenate([np.arange(len(row)) == 0 for row in rows])
    regression = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000)
    return make_pipeline(StandardScaler(), regression).fit(states_ND, true_N)


def _told(judge: Any, answers_AD: Floats) -> float:
    logit_A = judge.decision_function(answers_AD)
    return float(np.mean((logit_A[0] > logit_A[1:]) + 0.5 * (logit_A[0] == logit_A[1:])))
