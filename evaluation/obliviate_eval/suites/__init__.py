"""Every suite. A set whose rows lack what a metric needs gets no score from it, and the figure says how many."""

from dataclasses import replace

from obliviate.data.rows import Role
from obliviate_eval.aggregates import (
    FORGET_EFFICACY,
    MEMORIZATION,
    MODEL_UTILITY,
    NEIGHBOR_UTILITY,
    OPT_OUT_FQ,
    OPT_OUT_RQ,
    OVERALL,
    TOFU_MODEL_UTILITY,
    UTILITY,
)
from obliviate_eval.metrics import (
    Accuracy,
    AnyMetric,
    DistinctN,
    Entailment,
    ExactMemorization,
    ExpectedWorstRouge,
    ExtentOfKnowledge,
    ExtractionStrength,
    Fluency,
    KeyProbability,
    KeySaid,
    KnowledgeMemorization,
    LeakAtK,
    LeakBound,
    MiaGradNorm,
    MiaLoss,
    MiaMinK,
    MiaMinKPlusPlus,
    MiaReference,
    MiaZlib,
    ParaphrasedProbability,
    Privacy,
    PrivLeak,
    Probability,
    RelativeDifference,
    Rouge,
    SelfBleu,
    Similarity,
    TokenEntropy,
    TruthRatio,
    VerbatimMemorization,
)
from obliviate_eval.metrics.base import KEPT
from obliviate_eval.suites.base import Suite
from obliviate_eval.suites.blur import BLUR
from obliviate_eval.suites.knowundo import KNOWUNDO
from obliviate_eval.suites.lume import LUME
from obliviate_eval.suites.pistol import PISTOL
from obliviate_eval.suites.relu import RELU
from obliviate_eval.suites.rwku import RWKU
from obliviate_eval.suites.wmdp_forms import WMDP_CLOZE, WMDP_ROBUST

# The published figures rest on ROUGE's own tokenizer.
_PUBLISHED_ROUGE = Rouge(words="published")
_REST = (Probability(), TruthRatio(), TokenEntropy(), Similarity())
_KEY = (KeySaid(), KeyProbability())  # what a user means by forgotten: first
_SIX = (*_KEY, _PUBLISHED_ROUGE, *_REST, Entailment(words="published"))
_MEMORY = (ExtractionStrength(), ExactMemorization(), ParaphrasedProbability(), ExtentOfKnowledge())
_ATTACKS = (MiaLoss(), MiaZlib(), MiaMinK(), MiaReference())  # those that one scored pass gives
_TOFU = (*_KEY, _PUBLISHED_ROUGE, Probability(), TruthRatio(definition="tofu"), *_MEMORY)
_OPENUNLEARNING = (
    _PUBLISHED_ROUGE,
    Probability(definition="openunlearning"),
    TruthRatio(definition="openunlearning"),
    ExtractionStrength(definition="openunlearning"),
    ExactMemorization(),
    ParaphrasedProbability(),
    ExtentOfKnowledge(definition="openunlearning"),
    Fluency(),
)


def _of_the_world(metrics: tuple[AnyMetric, ...]) -> dict[str, tuple[str, ...]]:
    """TOFU's real authors and world facts have no other wordings of their answers."""
    types = tuple(each.type for each in metrics if each.type != "paraphrased_probability")
    return dict.fromkeys(("real_authors", "world_facts"), types)


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
    premise=dict.fromkeys((Role.FORGET, *KEPT), "generation"),
)
REAL_WORLD = replace(
    CLOSER_LOOK_REAL_WORLD, name="real_world", title="The same as closer_look_real_world, by its short name"
)
# High truth ratios mean the same on every set here, true told from false: FQ turns all of the forget set's numbers.
OPT_OUT = Suite(
    name="opt_out",
    title="Opt-Out's FQ and RQ (arXiv:2406.12329v3): an entity, its neighbours, and the world; needs no judge",
    metrics=(*_KEY, Probability(), _PUBLISHED_ROUGE, TruthRatio()),
    aggregates=(OPT_OUT_FQ, OPT_OUT_RQ),
)
TOFU = Suite(
    name="tofu",
    title="TOFU's own numbers (arXiv:2401.06121), memorisation and membership inference; needs no judge",
    metrics=_TOFU,
    sets=_of_the_world(_TOFU),
    comparisons=(*_ATTACKS, PrivLeak(), RelativeDifference()),
    aggregates=(TOFU_MODEL_UTILITY, MEMORIZATION),
)
OPENUNLEARNING = Suite(
    name="openunlearning",
    title="Everything OpenUnlearning computes of TOFU (arXiv:2506.12618), as its code does, and its three scores",
    metrics=_OPENUNLEARNING,
    sets=_of_the_world(_OPENUNLEARNING),
    comparisons=(
        *_ATTACKS,
        MiaMinKPlusPlus(),
        MiaGradNorm(),
        PrivLeak(definition="openunlearning"),
        RelativeDifference(definition="openunlearning"),
        Privacy(),
    ),
    aggregates=(TOFU_MODEL_UTILITY, MEMORIZATION, UTILITY, OVERALL),
)
_MUSE_KNOWLEDGE = ("knowledge_memorization",)
MUSE = Suite(
    name="muse",
    title="MUSE (arXiv:2407.06460): verbatim and knowledge memorisation, PrivLeak; needs no judge",
    metrics=(
        VerbatimMemorization(words="published"),
        KnowledgeMemorization(words="published"),
        Probability(),
        ExtractionStrength(),
        ExactMemorization(),
    ),
    comparisons=(
        MiaLoss(forget_set="forget"),
        MiaZlib(forget_set="forget"),
        MiaMinK(forget_set="forget"),
        MiaReference(forget_set="forget"),
        PrivLeak(attack=MiaMinK(forget_set="forget")),
        RelativeDifference(attack=MiaMinK(forget_set="forget")),
    ),
    sets={
        "verbatim": ("verbatim_memorization", "extraction_strength", "exact_memorization"),
        "knowledge_forget": _MUSE_KNOWLEDGE,
        "knowledge_retain": _MUSE_KNOWLEDGE,
        "forget": ("probability",),
        "holdout": ("probability",),
    },
    new_tokens={"verbatim": 128, "knowledge_forget": 32, "knowledge_retain": 32},
    cut_truths=frozenset({"verbatim"}),
)
WMDP = Suite(
    name="wmdp",
    title="WMDP (arXiv:2403.03218): accuracy on four options, by their log-likelihoods; needs no judge",
    metrics=(Accuracy(), Probability()),
)
LEAKAGE = Suite(
    name="leakage",
    title="Leakage under sampling: leak@k with bounds, the worst of k samples; repetition and diversity",
    metrics=(KeySaid(), Rouge(), LeakAtK(), ExpectedWorstRouge(), SelfBleu(), DistinctN(), TokenEntropy()),
    comparisons=(LeakBound(),),
)
# `obliviate evaluate` asks it in every form; `obliviate attack` has its attack `ask` for that.
ROBUSTNESS = Suite(
    name="robustness",
    title="Whether a fact is known, teacher-forced and said: what attacks are measured by; needs no judge",
    metrics=(*_KEY, Probability(), ExtractionStrength(), Rouge(), Accuracy()),
    sets={
        "forget*": ("key_said", "key_probability", "probability", "extraction_strength", "rouge"),
        "*": ("probability",),
    },
)
CUSTOM = Suite(
    name="custom",
    title="A user's own questions: the six metrics, memorisation, repetition, and attacks where a holdout set is given",
    metrics=(*_KEY, Rouge(), *_REST, Entailment(), *_MEMORY, DistinctN()),
    comparisons=(*_ATTACKS, PrivLeak()),
    aggregates=(MODEL_UTILITY, FORGET_EFFICACY, MEMORIZATION),
    premise=CLOSER_LOOK.premise,
)

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        CLOSER_LOOK, CLOSER_LOOK_REAL_WORLD, REAL_WORLD, OPT_OUT, TOFU, OPENUNLEARNING, MUSE, WMDP, LEAKAGE,
        ROBUSTNESS, CUSTOM,
        RWKU,
        WMDP_ROBUST, WMDP_CLOZE,
        KNOWUNDO,
        LUME, RELU, BLUR, PISTOL,
    )
}  # fmt: skip
