"""Relative difference of an attack to a retain model's (OpenUnlearning, arXiv:2506.12618)."""

from typing import ClassVar, Literal

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Samples
from obliviate_eval.metrics.mia_min_k import MiaMinK
from obliviate_eval.metrics.privleak import relative
from obliviate_eval.statistics import Estimate


class RelativeDifference(Comparison):
    """As PrivLeak, of the attack's AUC itself: 100 (AUC - AUC of a retain model) / (AUC of the retain model).

    Above 0: the forget set looks more trained on than to a model that never saw it.
    """

    title: ClassVar = "Relative difference of the Min-K% attack's AUC to a retain model's, in per cent"
    direction: ClassVar = "0 is the aim; above: still looks trained on; below: over-forgotten"
    source: ClassVar = "arXiv:2506.12618"
    needs: ClassVar = MiaMinK.needs

    type: Literal["rel_diff"] = "rel_diff"
    attack: MiaMinK = MiaMinK()
    definition: Literal["plain", "openunlearning"] = "plain"

    def asks(self, name: str, role: Role) -> bool:
        return self.attack.asks(name, role)

    def estimate(self, samples: Samples) -> Estimate:
        return relative(self.attack, samples, complement=False, openunlearning=self.definition == "openunlearning")
