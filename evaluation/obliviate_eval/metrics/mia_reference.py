"""Reference attack (Carlini et al. 2021, arXiv:2012.07805; Mireshghallah et al. 2022, arXiv:2203.03929)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.attack import Attack, mean_loss
from obliviate_eval.records import Probe, Record


class MiaReference(Attack):
    """The signal is the loss above that of a model that never saw the forget set: how hard the text is in itself is
    taken out. Of that model itself it is 0.5, always.
    """

    title: ClassVar = "Reference attack: AUC of forget against holdout, loss above a retain model's"
    direction: ClassVar = "0.5 is the aim; 1: the forget set still looks trained on"
    source: ClassVar = "arXiv:2012.07805; arXiv:2203.03929"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["mia_reference"] = "mia_reference"

    def signal(self, record: Record, reference: Record | None) -> float | None:
        loss = mean_loss(record)
        other = None if reference is None else mean_loss(reference)
        return None if loss is None or other is None else loss - other
