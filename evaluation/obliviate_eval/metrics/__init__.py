"""Every metric of single items and every comparison of sets or models, each in one closed union."""

from typing import Annotated, get_args

from pydantic import Field

from obliviate.plugins import Door
from obliviate_eval.metrics.accuracy import Accuracy
from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.cloze_probability import ClozeProbability
from obliviate_eval.metrics.comparison import Comparison
from obliviate_eval.metrics.distinct_n import DistinctN
from obliviate_eval.metrics.entailment import Entailment
from obliviate_eval.metrics.exact_match import ExactMatch
from obliviate_eval.metrics.exact_memorization import ExactMemorization
from obliviate_eval.metrics.expected_worst_rouge import ExpectedWorstRouge
from obliviate_eval.metrics.extent_of_knowledge import ExtentOfKnowledge
from obliviate_eval.metrics.extraction_strength import ExtractionStrength
from obliviate_eval.metrics.fluency import Fluency
from obliviate_eval.metrics.judge_agreement import JudgeAgreement
from obliviate_eval.metrics.judge_kappa import JudgeKappa
from obliviate_eval.metrics.judged import Judged
from obliviate_eval.metrics.key_probability import KeyProbability
from obliviate_eval.metrics.key_said import KeySaid
from obliviate_eval.metrics.knowledge_memorization import KnowledgeMemorization
from obliviate_eval.metrics.known_by_any import KnownByAny, KnownOnAverage
from obliviate_eval.metrics.leak_at_k import LeakAtK
from obliviate_eval.metrics.leak_bound import LeakBound
from obliviate_eval.metrics.loss import Loss, MinKLoss, MinKPlusPlusLoss, ZlibLoss
from obliviate_eval.metrics.mia_gradnorm import MiaGradNorm
from obliviate_eval.metrics.mia_loss import MiaLoss
from obliviate_eval.metrics.mia_min_k import MiaMinK
from obliviate_eval.metrics.mia_min_k_plus_plus import MiaMinKPlusPlus
from obliviate_eval.metrics.mia_reference import MiaReference
from obliviate_eval.metrics.mia_score import MiaScore
from obliviate_eval.metrics.mia_zlib import MiaZlib
from obliviate_eval.metrics.ngram_entropy import NgramEntropy
from obliviate_eval.metrics.paraphrased_probability import ParaphrasedProbability
from obliviate_eval.metrics.privacy import Privacy
from obliviate_eval.metrics.privleak import PrivLeak
from obliviate_eval.metrics.probability import Probability
from obliviate_eval.metrics.rank import HitRate, MeanReciprocalRank
from obliviate_eval.metrics.rel_diff import RelativeDifference
from obliviate_eval.metrics.rouge import Rouge
from obliviate_eval.metrics.rouge_1 import Rouge1
from obliviate_eval.metrics.rouge_f1 import RougeF1
from obliviate_eval.metrics.self_bleu import SelfBleu
from obliviate_eval.metrics.similarity import Similarity
from obliviate_eval.metrics.token_entropy import TokenEntropy
from obliviate_eval.metrics.token_f1 import TokenF1
from obliviate_eval.metrics.truth_ratio import TruthRatio
from obliviate_eval.metrics.verbatim_memorization import VerbatimMemorization
from obliviate_eval.metrics.worst_question import WorstQuestion

AnyMetric = (
    Rouge
    | Probability
    | TruthRatio
    | TokenEntropy
    | Similarity
    | Entailment
    | ExtractionStrength
    | ExactMemorization
    | ParaphrasedProbability
    | ExtentOfKnowledge
    | Fluency
    | VerbatimMemorization
    | KnowledgeMemorization
    | Accuracy
    | LeakAtK
    | ExpectedWorstRouge
    | DistinctN
    | SelfBleu
    | Loss
    | ZlibLoss
    | MinKLoss
    | MinKPlusPlusLoss
    | ExactMatch
    | TokenF1
    | NgramEntropy
    | Judged
    | ClozeProbability
    | RougeF1
    | Rouge1
    | MeanReciprocalRank
    | HitRate
    | KeyProbability
    | KeySaid
)
AnyComparison = (
    MiaLoss
    | MiaZlib
    | MiaMinK
    | MiaMinKPlusPlus
    | MiaReference
    | MiaGradNorm
    | PrivLeak
    | RelativeDifference
    | Privacy
    | LeakBound
    | JudgeAgreement
    | JudgeKappa
    | MiaScore
    | WorstQuestion
    | KnownByAny
    | KnownOnAverage
)

METRIC_TYPES: dict[str, type[Metric]] = {cls.model_fields["type"].default: cls for cls in get_args(AnyMetric)}
COMPARISON_TYPES: dict[str, type[Comparison]] = {
    cls.model_fields["type"].default: cls for cls in get_args(AnyComparison)
}

_NAMES = {*METRIC_TYPES, *COMPARISON_TYPES}
METRIC_DOOR = Door("obliviate.metrics", (Metric,), METRIC_TYPES, _NAMES)
COMPARISON_DOOR = Door("obliviate.metrics", (Comparison,), COMPARISON_TYPES, _NAMES)
EITHER_DOOR = Door("obliviate.metrics", (Metric, Comparison), {**METRIC_TYPES, **COMPARISON_TYPES}, _NAMES)
AnyMetricSpec = Annotated[AnyMetric, Field(discriminator="type"), METRIC_DOOR]
AnyComparisonSpec = Annotated[AnyComparison, Field(discriminator="type"), COMPARISON_DOOR]
EitherSpec = Annotated[AnyMetric | AnyComparison, Field(discriminator="type"), EITHER_DOOR]

__all__ = [
    "COMPARISON_DOOR",
    "COMPARISON_TYPES",
    "METRIC_DOOR",
    "METRIC_TYPES",
    "Accuracy",
    "AnyComparison",
    "AnyComparisonSpec",
    "AnyMetric",
    "AnyMetricSpec",
    "ClozeProbability",
    "Comparison",
    "DistinctN",
    "EitherSpec",
    "Entailment",
    "ExactMatch",
    "ExactMemorization",
    "ExpectedWorstRouge",
    "ExtentOfKnowledge",
    "ExtractionStrength",
    "Fluency",
    "HitRate",
    "JudgeAgreement",
    "JudgeKappa",
    "Judged",
    "KeyProbability",
    "KeySaid",
    "KnowledgeMemorization",
    "KnownByAny",
    "KnownOnAverage",
    "LeakAtK",
    "LeakBound",
    "Loss",
    "MeanReciprocalRank",
    "Metric",
    "MiaGradNorm",
    "MiaLoss",
    "MiaMinK",
    "MiaMinKPlusPlus",
    "MiaReference",
    "MiaScore",
    "MiaZlib",
    "MinKLoss",
    "MinKPlusPlusLoss",
    "NgramEntropy",
    "ParaphrasedProbability",
    "PrivLeak",
    "Privacy",
    "Probability",
    "RelativeDifference",
    "Rouge",
    "Rouge1",
    "RougeF1",
    "SelfBleu",
    "Similarity",
    "TokenEntropy",
    "TokenF1",
    "TruthRatio",
    "VerbatimMemorization",
    "WorstQuestion",
    "ZlibLoss",
]
