"""RWKU (Jin et al. 2024, arXiv:2406.10890)."""

from obliviate.data.rows import Role
from obliviate_eval.aggregates import Aggregate
from obliviate_eval.metrics import (
    Accuracy,
    ExactMatch,
    Loss,
    MinKLoss,
    MinKPlusPlusLoss,
    NgramEntropy,
    Rouge,
    TokenF1,
    ZlibLoss,
)
from obliviate_eval.suites.base import Suite

SOURCE = "arXiv:2406.10890"
_ATTACKS = ("loss", "zlib_loss", "min_k_loss", "min_k_plus_plus_loss")


def _over(name: str, title: str, role: Role, *sets: str) -> Aggregate:
    """Over all probes of these sets, as published: a set counts by its items."""
    return Aggregate(
        name, f"{title}: ROUGE-L recall over all probes", SOURCE, (role,), ("rouge",), combine=None, sets=sets
    )


RWKU = Suite(
    name="rwku",
    title="RWKU (arXiv:2406.10890): blanks, questions, nine adversarial kinds, neighbours, membership, utility",
    metrics=(
        Rouge(definition="rwku"),
        Loss(),
        ZlibLoss(),
        MinKLoss(),
        MinKPlusPlusLoss(),
        Accuracy(),
        ExactMatch(cue="the answer is", definition="squad"),
        TokenF1(definition="squad"),
        NgramEntropy(definition="rwku"),
    ),
    aggregates=(
        _over("rwku_adversarial", "The adversarial kinds (AA)", Role.FORGET, "forget_level3_*"),
        _over("rwku_forget", "All of the forget set", Role.FORGET, "forget_level*"),
        _over("rwku_neighbor", "All of the neighbour set", Role.RETAIN, "neighbor_level*"),
    ),
    sets={
        "*_level*": ("rouge",),
        "mia_*": _ATTACKS,
        "utility_general": ("accuracy",),
        "utility_reason": ("exact_match",),
        "utility_truthfulness": ("accuracy",),
        "utility_factuality": ("token_f1",),
        "utility_fluency": ("ngram_entropy",),
    },
    new_tokens={"*_level*": 30, "utility_reason": 256, "utility_factuality": 30, "utility_fluency": 256},
)
