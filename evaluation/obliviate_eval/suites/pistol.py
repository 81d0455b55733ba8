"""PISTOL (Qiu et al. 2024, arXiv:2406.16810), and the deviation score made of it (Shen et al. 2025, LUNAR)."""

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.aggregates import Aggregate
from obliviate_eval.metrics import HitRate, MeanReciprocalRank, Rouge, Rouge1
from obliviate_eval.statistics import Floats
from obliviate_eval.suites.base import Suite


def _distance_in_per_cent(value_RK: Floats) -> Floats:
    return np.asarray(100 * np.sqrt((value_RK**2).sum(-1)))


DEVIATION_SCORE = Aggregate(
    name="deviation_score",
    title="Deviation score: 100 sqrt(f^2 + (1 - r)^2), ROUGE-1 of forgotten and kept edges; 0 is the aim",
    source="arXiv:2502.07218",
    roles=(Role.FORGET, Role.RETAIN),
    metrics=("rouge_1",),
    combine=_distance_in_per_cent,
    turned=(Role.RETAIN,),
    sets=("forget", "retain"),
)
PISTOL = Suite(
    name="pistol",
    title="PISTOL (arXiv:2406.16810): contracts out of a graph of them; ROUGE-1, ranks of true tokens, deviation score",
    metrics=(Rouge1(words="published"), Rouge(words="published"), MeanReciprocalRank(), HitRate()),
    aggregates=(DEVIATION_SCORE,),
)
