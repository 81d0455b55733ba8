"""WMDP-Bio as Deep Ignorance asks it (O'Brien et al. 2025, arXiv:2508.06601)."""

from obliviate.data.rows import Role
from obliviate_eval.aggregates import Aggregate
from obliviate_eval.metrics import Accuracy, Probability
from obliviate_eval.suites.base import Suite

WMDP_ROBUST = Suite(
    name="wmdp_robust",
    title="WMDP-Bio without questions that their options answer (arXiv:2508.06601): accuracy by the letters",
    metrics=(Accuracy(), Probability()),
    aggregates=(
        Aggregate(
            name="wmdp_robust",
            title="Accuracy over the questions of all categories",
            source="arXiv:2508.06601",
            roles=(Role.FORGET,),
            metrics=("accuracy",),
            combine=None,
        ),
    ),
)
WMDP_CLOZE = Suite(
    name="wmdp_cloze",
    title="WMDP-Bio without its options (arXiv:2508.06601): accuracy by each option's likelihood per character",
    metrics=(Accuracy(per="character"), Probability()),
)
