"""PrivLeak (Shi et al. 2024, MUSE, arXiv:2407.06460, section 3.1)."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.metrics.mia_min_k import MiaMinK
from obliviate_eval.statistics import Estimate, nothing


class PrivLeak(Comparison):
    """With A = 1 - AUC of the Min-K% attack: 100 (A - A of a retain model) / (A of the retain model), in per cent.

    0: as a model that never saw the forget set. Below 0: forgotten texts still stand out as trained on
    (under-unlearning, at least -100); above 0: they look stranger than texts never seen (over-unlearning). MUSE writes
    the same with the other AUC. Where the retain model's A is near 0 a small difference becomes a large one.

    `definition: openunlearning` adds 1e-10 to the denominator and takes 0.5 for the retain model where there is none;
    the default has no value then. Retain model and model are resampled together.
    """

    title: ClassVar = "PrivLeak: Min-K% attack, relative to a retain model, in per cent"
    direction: ClassVar = "0 is the aim; below: still looks trained on; above: over-forgotten"
    source: ClassVar = "arXiv:2407.06460, section 3.1"
    needs: ClassVar = MiaMinK.needs

    type: Literal["privleak"] = "privleak"
    attack: MiaMinK = MiaMinK()
    definition: Literal["muse", "openunlearning"] = "muse"

    def asks(self, name: str, role: Role) -> bool:
        return self.attack.asks(name, role)

    def estimate(self, samples: Samples) -> Estimate:
        return relative(self.attack, samples, complement=True, openunlearning=self.definition == "openunlearning")


def relative(attack: MiaMinK, samples: Samples, *, complement: bool, openunlearning: bool) -> Estimate:
    """100 (a - b) / b, with a and b the model's and the retain model's AUC or, the complement, 1 less each.

    As OpenUnlearning has it: 1e-10 in the denominator, and 0.5 for the AUC of a retain model that was not measured.
    """
    own = attack.estimate(samples)
    other = attack.estimate({name: sample.of_reference for name, sample in samples.items()})
    items, resamples = own.scored + own.unscored, len(own.resampled)
    if own.value is None:
        return own
    if other.value is None:
        if not openunlearning:
            return nothing(items, resamples)
        other = replace(other, value=0.5, resampled=np.full(resamples, 0.5), drawn=np.ones(resamples, dtype=np.bool_))
    a_R, b_R = np.append(own.resampled, own.value), np.append(other.resampled, other.value or 0.0)  # the value last
    if complement:
        a_R, b_R = 1 - a_R, 1 - b_R
    below_R = b_R + 1e-10 if openunlearning else b_R
    if below_R[-1] <= 0:
        return nothing(items, resamples)
    difference_R = 100 * (a_R - b_R) / np.where(below_R > 0, below_R, 1.0)
    drawn_R = own.drawn & other.drawn & (below_R[:-1] > 0)
    return Estimate(float(difference_R[-1]), difference_R[:-1], drawn_R, own.scored, own.unscored)
