"""Cohen's kappa of two judges of the same answers (Cohen 1960, doi:10.1177/001316446002000104)."""

from typing import ClassVar, Literal

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.metrics.judge_agreement import observed, verdicts
from obliviate_eval.records import Probe
from obliviate_eval.statistics import Bools, Estimate, Floats, nothing


class JudgeKappa(Comparison):
    """Agreement of the judge and the NLI model beyond what chance gives two judges who say yes as often as these do.

    1: always the same; 0: no more than by chance. Not defined where both only ever gave one and the same verdict.
    """

    title: ClassVar = "Cohen's kappa of the judge and the NLI model"
    direction: ClassVar = "higher: the judges agree, 0 is chance"
    source: ClassVar = "doi:10.1177/001316446002000104"
    needs: ClassVar = frozenset({Probe.VERDICT, Probe.ENTAILMENT})

    type: Literal["judge_kappa"] = "judge_kappa"

    def asks(self, name: str, role: Role) -> bool:
        """It compares what metrics have asked for."""
        return False

    def estimate(self, samples: Samples) -> Estimate:
        count_4, count_R4, unscored = verdicts(samples)
        kappa, defined = _kappa(count_4)
        kappa_R, defined_R = _kappa(count_R4)
        if not defined:
            return nothing(unscored + int(count_4.sum()), len(count_R4))
        return Estimate(float(kappa), kappa_R, defined_R, scored=int(count_4.sum()), unscored=unscored)


def _kappa(count_X4: Floats) -> tuple[Floats, Bools]:
    """And where it is defined."""
    total_X = np.maximum(count_X4.sum(-1), 1)
    yes_X, nli_yes_X = (count_X4[..., 2:].sum(-1) / total_X, count_X4[..., 1::2].sum(-1) / total_X)
    chance_X = yes_X * nli_yes_X + (1 - yes_X) * (1 - nli_yes_X)
    defined_X = np.asarray((count_X4.sum(-1) > 0) & (chance_X < 1))
    return (observed(count_X4) - chance_X) / np.where(defined_X, 1 - chance_X, 1), defined_X
