"""KnowUnDo (Tian et al. 2024, arXiv:2407.01920)."""

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.aggregates import Aggregate
from obliviate_eval.metrics import ExactMemorization, Loss, Rouge
from obliviate_eval.statistics import Floats
from obliviate_eval.suites.base import Suite

SOURCE = "arXiv:2407.01920"


def _mean(value_RK: Floats) -> Floats:
    return np.asarray(value_RK.mean(-1))


def _perplexity(loss_RK: Floats) -> Floats:
    return np.asarray(np.exp(loss_RK.mean(-1)))


def _wrong(accuracy_RK: Floats) -> Floats:
    return np.asarray(1 - accuracy_RK.mean(-1))


_RIGHT = ("exact_memorization",)
KNOWUNDO = Suite(
    name="knowundo",
    title="KnowUnDo (arXiv:2407.01920): unlearn and retention success, perplexity; needs no judge",
    metrics=(ExactMemorization(), Loss(), Rouge(words="published")),
    aggregates=(
        Aggregate(
            "unlearn_success", "Unlearn success: share of tokens that are wrong", SOURCE, (Role.FORGET,), _RIGHT, _wrong
        ),
        Aggregate(
            "retention_success", "Retention success: share of tokens that are right", SOURCE, (Role.RETAIN,), _RIGHT,
            _mean,
        ),
        Aggregate(
            "success", "Mean of unlearn and retention success", SOURCE, (), (), _mean,
            parts=("unlearn_success", "retention_success"),
        ),
        Aggregate(
            "unlearn_perplexity", "Perplexity of what is to be unlearned", SOURCE, (Role.FORGET,), ("loss",),
            _perplexity,
        ),
        Aggregate(
            "retention_perplexity", "Perplexity of what is to stay", SOURCE, (Role.RETAIN,), ("loss",), _perplexity
        ),
    ),
)  # fmt: skip
