"""Every suite. A set whose rows lack what a metric needs gets no score from it, and the figure says how many."""

from obliviate.data.rows import Role
from obliviate_eval.aggregates import FORGET_EFFICACY, MODEL_UTILITY, NEIGHBOR_UTILITY, TOFU_MODEL_UTILITY
from obliviate_eval.metrics import Entailment, Probability, Rouge, Similarity, TokenEntropy, TruthRatio
from obliviate_eval.metrics.base import KEPT
from obliviate_eval.suites.base import Suite

_SIX = (Rouge(), Probability(), TruthRatio(), TokenEntropy(), Similarity(), Entailment())

# Forgotten facts: does what the model says imply the truth? Kept facts: is what it says implied by the truth?
# That is how the published code asks; on real people it asks the first question of every set.
CLOSER_LOOK = Suite(
    name="closer_look",
    title='TOFU-shaped sets as in "A Closer Look" (arXiv:2410.08109), with TOFU\'s model utility beside its own',
    metrics=_SIX,
    aggregates=(MODEL_UTILITY, FORGET_EFFICACY, TOFU_MODEL_UTILITY),
    premise={Role.FORGET: "generation", **dict.fromkeys(KEPT, "reference")},
)
CLOSER_LOOK_REAL_WORLD = Suite(
    name="closer_look_real_world",
    title='Real people as in "A Closer Look" (arXiv:2410.08109): utility on neighbouring people alone',
    metrics=_SIX,
    aggregates=(NEIGHBOR_UTILITY, FORGET_EFFICACY),
    premise=dict.fromkeys(Role, "generation"),
)
TOFU = Suite(
    name="tofu",
    title="TOFU's own numbers (arXiv:2401.06121); needs no judge",
    metrics=(Rouge(), Probability(), TruthRatio(definition="tofu")),
    aggregates=(TOFU_MODEL_UTILITY,),
    premise={},
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in (CLOSER_LOOK, CLOSER_LOOK_REAL_WORLD, TOFU)}
