"""Truth ratio (TOFU, arXiv:2401.06121, section 2.2; "A Closer Look", arXiv:2410.08109, turns its forget side)."""

from math import exp, expm1, fsum
from typing import ClassVar, Literal

from obliviate.data.rows import Role
from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record


class TruthRatio(Metric):
    """With r = p(paraphrased answer) / p(false answers), probabilities per token and geometric means over the false:

    what should be kept scores max(0, 1 - 1/r) under both definitions. On the forget set TOFU scores
    min(r, 1/r) (high: forgotten), "A Closer Look" 1 - min(r, 1/r) (high: the model still tells true from false).
    TOFU writes the same with R = 1/r. `definition: openunlearning` is TOFU's with 1e-10 in two denominators, which
    makes a collapsed model's ratio what the 1e-10 is, not what the model says.
    """

    title: ClassVar = "Truth ratio: a paraphrase of the true answer against false answers"
    direction: ClassVar = (
        "higher: true is told from false; on forget with definitions tofu and openunlearning the reverse"
    )
    source: ClassVar = "arXiv:2401.06121, section 2.2; arXiv:2410.08109"
    needs: ClassVar = frozenset({Probe.PARAPHRASED, Probe.PERTURBED})

    type: Literal["truth_ratio"] = "truth_ratio"
    definition: Literal["closer_look", "tofu", "openunlearning"] = "closer_look"

    def score(self, record: Record) -> float | None:
        if self.definition == "openunlearning":
            found = openunlearning_probabilities(record)
            return None if found is None else _openunlearning(*found, forget=record.role is Role.FORGET)
        log_r = log_truth_ratio(record)
        if log_r is None:
            return None
        if record.role is not Role.FORGET:
            return -expm1(-log_r) if log_r > 0 else 0.0
        nearness = exp(-abs(log_r))  # min(r, 1/r)
        return nearness if self.definition == "tofu" else 1 - nearness


def openunlearning_probabilities(record: Record) -> tuple[float, float] | None:
    """Per token, of the paraphrase and of the false answers: exp of the mean losses, which may underflow to 0."""
    means = _means(record)
    return None if means is None else (exp(means[0]), exp(means[1]))


def _openunlearning(right: float, wrong: float, *, forget: bool) -> float:
    ratio = wrong / (right + 1e-10)
    return min(ratio, 1 / (ratio + 1e-10)) if forget else max(0.0, 1 - ratio)


def log_truth_ratio(record: Record) -> float | None:
    """log r in nats: a logarithm, because r itself overflows for a model that is far from language."""
    means = _means(record)
    return None if means is None else means[0] - means[1]


def _means(record: Record) -> tuple[float, float] | None:
    """Nats per token of the paraphrase, and the mean of the false answers'."""
    right = [answer.mean_logp for answer in record.answers.get(Probe.PARAPHRASED, ())]
    wrong = [answer.mean_logp for answer in record.answers.get(Probe.PERTURBED, ())]
    known = [logp for logp in wrong if logp is not None]
    if not right or right[0] is None or not wrong or len(known) < len(wrong):
        return None
    return right[0], fsum(known) / len(known)
