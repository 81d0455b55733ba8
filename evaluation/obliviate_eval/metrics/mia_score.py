"""How little a loss attack finds (Ramakrishna et al. 2025, LUME, arXiv:2502.15097; SemEval-2025 task 4)."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.metrics.mia_loss import MiaLoss
from obliviate_eval.statistics import Estimate


class MiaScore(Comparison):
    """1 - 2 |AUC - 0.5| of the loss attack: 1 where forgotten and unseen texts are not told apart, 0 where they are,
    whichever of the two has the higher loss.

    Takes 0.5 for what a model that never saw the texts would give: `privacy` and `privleak` ask one.
    """

    title: ClassVar = "MIA score: 1 - 2 |AUC - 0.5| of the loss attack"
    direction: ClassVar = "higher: forgotten texts are not told from unseen ones"
    source: ClassVar = "arXiv:2502.15097"
    needs: ClassVar = MiaLoss.needs

    type: Literal["mia_score"] = "mia_score"
    attack: MiaLoss = MiaLoss()

    def asks(self, name: str, role: Role) -> bool:
        return self.attack.asks(name, role)

    def estimate(self, samples: Samples) -> Estimate:
        auc = self.attack.estimate(samples)
        value = None if auc.value is None else 1 - 2 * abs(auc.value - 0.5)
        return replace(auc, value=value, resampled=1 - 2 * np.abs(auc.resampled - 0.5))
