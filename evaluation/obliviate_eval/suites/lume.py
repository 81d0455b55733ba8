"""LUME (Ramakrishna et al. 2025, arXiv:2502.15097), as SemEval-2025 task 4 scored it."""

from obliviate.data.lume import KINDS, TASKS
from obliviate.data.rows import Role
from obliviate_eval.aggregates import Aggregate, mean
from obliviate_eval.metrics import ExactMatch, MiaLoss, MiaScore, Rouge
from obliviate_eval.statistics import harmonic_mean
from obliviate_eval.suites.base import Suite

_METRIC = {"sc": "rouge", "qa": "exact_match"}
_OF_SETS = {
    f"{part}_{task}_{kind}": (_METRIC[kind],) for part in ("forget", "retain") for task in TASKS for kind in KINDS
}
_ATTACK = MiaLoss(forget_set="member", end_of_turn=False)

LUME_TASKS = Aggregate(
    name="lume_tasks",
    title="Task aggregate of LUME: harmonic mean of ROUGE-L and exact match of three tasks (1 - theirs on forget sets)",
    source="arXiv:2502.15097",
    roles=(Role.FORGET, Role.RETAIN),
    metrics=tuple(_METRIC.values()),
    combine=harmonic_mean,
    turned=(Role.FORGET,),
)
LUME_FINAL = Aggregate(
    name="lume",
    title="Final score of LUME: mean of task aggregate, MIA score and MMLU",
    source="SemEval-2025 task 4",
    roles=(),
    metrics=(),
    combine=mean,
    parts=("lume_tasks", "mia_score"),
    tasks=("mmlu",),
)
LUME = Suite(
    name="lume",
    title="LUME (arXiv:2502.15097): regurgitation and knowledge of three tasks, membership inference; needs no judge",
    metrics=(Rouge(words="published"), ExactMatch(definition="lume")),
    comparisons=(_ATTACK, MiaScore(attack=_ATTACK)),
    aggregates=(LUME_TASKS, LUME_FINAL),
    sets={**_OF_SETS, "member": (), "nonmember": ()},
    new_tokens=dict.fromkeys(_OF_SETS, 256),
)
