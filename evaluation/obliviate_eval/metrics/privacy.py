"""Privacy score: how near the attacks' AUCs are to a retain model's (OpenUnlearning, arXiv:2506.12618)."""

from typing import ClassVar, Literal

import numpy as np

from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.metrics.mia_loss import MiaLoss
from obliviate_eval.metrics.mia_min_k import MiaMinK
from obliviate_eval.metrics.mia_min_k_plus_plus import MiaMinKPlusPlus
from obliviate_eval.metrics.mia_zlib import MiaZlib
from obliviate_eval.records import Probe
from obliviate_eval.statistics import Estimate, Floats, harmonic_mean, nothing

ATTACKS = (MiaLoss(), MiaZlib(), MiaMinK(), MiaMinKPlusPlus())


class Privacy(Comparison):
    """Harmonic mean over the loss, zlib, Min-K% and Min-K%++ attacks of 1 - |AUC - AUC_r| / max(AUC_r, 1 - AUC_r), with
    AUC_r the retain model's: 1 where every attack does as well on both models, 0 where one is as far off as it can be.

    OpenUnlearning's paper gives the aggregate and its code does not hold it; others scale by the model before
    unlearning. `scored` counts attacks: one that was not measured on both models is left out and counted as unscored.
    """

    title: ClassVar = "Privacy: harmonic mean of how near four attacks' AUCs are to a retain model's"
    direction: ClassVar = "higher: as a model that never saw the forget set"
    source: ClassVar = "arXiv:2506.12618"
    needs: ClassVar = frozenset[Probe]().union(*(attack.needs for attack in ATTACKS))

    type: Literal["privacy"] = "privacy"

    def estimate(self, samples: Samples) -> Estimate:
        reference = {name: sample.of_reference for name, sample in samples.items()}
        pairs = [(attack.estimate(samples), attack.estimate(reference)) for attack in ATTACKS]
        known = [(own, other) for own, other in pairs if own.value is not None and other.value is not None]
        absent = len(pairs) - len(known)
        if not known:
            return nothing(absent, len(pairs[0][0].resampled))
        value_K = np.array([closeness(np.array(own.value), np.array(other.value)) for own, other in known])
        resampled_RK = np.stack([closeness(own.resampled, other.resampled) for own, other in known], axis=-1)
        drawn_R = np.all([own.drawn & other.drawn for own, other in known], axis=0)
        value, resampled_R = float(harmonic_mean(value_K)), harmonic_mean(resampled_RK)
        return Estimate(value, resampled_R, drawn_R, len(known), absent)


def closeness(auc: Floats, reference: Floats) -> Floats:
    return np.asarray(1 - np.abs(auc - reference) / np.maximum(reference, 1 - reference))
