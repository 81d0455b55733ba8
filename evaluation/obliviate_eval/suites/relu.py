"""ReLU (Joshi et al. 2024, arXiv:2411.15477): TOFU's facts in other formats, published or made by rule."""

from obliviate_eval.metrics import Accuracy, ClozeProbability, RougeF1
from obliviate_eval.suites.base import Suite

_METRIC = {
    "mcqa": "accuracy",
    "cloze": "cloze_probability",
    "analogy": "accuracy",
    "odd_one_out": "accuracy",
    "comprehension_qa": "rouge_f1",
    "comprehension_mcqa": "accuracy",
}

RELU = Suite(
    name="relu",
    title="ReLU (arXiv:2411.15477): options, gaps, analogies, odd facts, and questions about a text; needs no judge",
    metrics=(Accuracy(), ClozeProbability(), RougeF1(words="published")),
    sets={f"{form}_{part}": (metric,) for form, metric in _METRIC.items() for part in ("forget", "retain")},
    as_long_as_truth=frozenset({"comprehension_qa_forget", "comprehension_qa_retain"}),
)
