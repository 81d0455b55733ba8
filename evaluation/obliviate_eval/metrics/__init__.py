"""Every metric of single items, in one closed union."""

from typing import get_args

from obliviate_eval.metrics.base import Metric
from obliviate_eval.metrics.entailment import Entailment
from obliviate_eval.metrics.probability import Probability
from obliviate_eval.metrics.rouge import Rouge
from obliviate_eval.metrics.similarity import Similarity
from obliviate_eval.metrics.token_entropy import TokenEntropy
from obliviate_eval.metrics.truth_ratio import TruthRatio

AnyMetric = Rouge | Probability | TruthRatio | TokenEntropy | Similarity | Entailment

METRIC_TYPES: dict[str, type[Metric]] = {cls.model_fields["type"].default: cls for cls in get_args(AnyMetric)}

__all__ = [
    "METRIC_TYPES",
    "AnyMetric",
    "Entailment",
    "Metric",
    "Probability",
    "Rouge",
    "Similarity",
    "TokenEntropy",
    "TruthRatio",
]
