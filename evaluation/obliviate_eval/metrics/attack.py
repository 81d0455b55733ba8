"""Membership inference: are forgotten texts told from texts that were never trained on (Shokri et al. 2017)?"""

from abc import abstractmethod
from math import fsum, isfinite

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Sample, Samples
from obliviate_eval.records import Probe, Record, ScoredAnswer, asked_again
from obliviate_eval.statistics import Estimate, Floats, auc, nothing


class Attack(Comparison):
    """The area under the ROC curve of a signal: the chance that a holdout text looks less trained on than a forgotten
    one, ties counting half. 1: forgotten texts stand out as trained on; 0.5: not told apart; below: over-forgotten.

    The number to aim at is a retain model's, which is 0.5 only where the two sets are alike.
    """

    forget_set: str | None = None  # the set of role forget that is attacked; None: all of them together

    def asks(self, name: str, role: Role) -> bool:
        if role is Role.FORGET:
            return not asked_again(name) if self.forget_set is None else name == self.forget_set
        return role is Role.HOLDOUT

    @abstractmethod
    def signal(self, record: Record, reference: Record | None) -> float | None:
        """Higher: looks less as if the model was trained on the text. None: not measured or not finite."""

    def estimate(self, samples: Samples) -> Estimate:
        chosen = [sample for name, sample in samples.items() if self.asks(name, sample.role)]
        if not chosen:
            return nothing(unscored=0, resamples=0)
        resamples = len(chosen[0].counts_RI)
        forget, forget_RI, unknown = self._signals([s for s in chosen if s.role is Role.FORGET], resamples)
        holdout, holdout_RI, others = self._signals([s for s in chosen if s.role is Role.HOLDOUT], resamples)
        unscored = unknown + others
        if not forget or not holdout:
            return nothing(len(forget) + len(holdout) + unscored, resamples)
        [value], _ = auc(forget, holdout, np.ones((1, len(forget))), np.ones((1, len(holdout))))
        resampled_R, drawn_R = auc(forget, holdout, forget_RI, holdout_RI)
        if min(len(forget), len(holdout)) < 2:  # a single item shows no spread
            drawn_R = np.zeros_like(drawn_R)
        return Estimate(float(value), resampled_R, drawn_R, len(forget) + len(holdout), unscored)

    def _signals(self, samples: list[Sample], resamples: int) -> tuple[list[float], Floats, int]:
        """The known signals, how often each resample holds each, and how many are not known."""
        found = [
            record.logged[self.type] if self.type in record.logged else self.signal(record, reference)
            for sample in samples
            for record, reference in zip(sample.records, sample.reference, strict=True)
        ]
        counts_RI = np.concatenate([np.empty((resamples, 0)), *(sample.counts_RI for sample in samples)], axis=1)
        known = [signal is not None for signal in found]
        return [signal for signal in found if signal is not None], counts_RI[:, known], known.count(False)


def true_answer(record: Record) -> ScoredAnswer | None:
    return next(iter(record.answers.get(Probe.ANSWER, ())), None)


def mean_loss(record: Record) -> float | None:
    """Of the true answer, in nats per token, the end of turn included."""
    answer = true_answer(record)
    mean = None if answer is None else answer.mean_logp
    return None if mean is None else -mean


def mean_of_lowest(values: tuple[float, ...], share: float) -> float | None:
    """Mean of the lowest `share` of the values, at least of one of them, as the attacks' authors round: down."""
    if not values or not all(map(isfinite, values)):
        return None
    count = max(1, int(share * len(values)))
    return fsum(sorted(values)[:count]) / count
