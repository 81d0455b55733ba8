"""Loss attack (Yeom et al. 2018, arXiv:1709.01604)."""

from typing import ClassVar, Literal

from obliviate_eval.metrics.attack import Attack, mean_loss
from obliviate_eval.metrics.loss import content_loss
from obliviate_eval.records import Probe, Record


class MiaLoss(Attack):
    """The signal is the true answer's loss, in nats per token. Fooled by texts that are easy for any model.

    `end_of_turn: false` leaves out the token that ends the text, which published code never saw behind plain texts.
    """

    title: ClassVar = "Loss attack: AUC of forget against holdout"
    direction: ClassVar = "a retain model's value is the aim; 1: the forget set still looks trained on"
    source: ClassVar = "arXiv:1709.01604"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["mia_loss"] = "mia_loss"
    end_of_turn: bool = True

    def signal(self, record: Record, reference: Record | None) -> float | None:
        return mean_loss(record) if self.end_of_turn else content_loss(record)
