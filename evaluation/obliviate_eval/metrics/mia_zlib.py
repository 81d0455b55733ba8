"""Zlib attack (Carlini et al. 2021, arXiv:2012.07805, section 5.1)."""

from typing import ClassVar, Literal
from zlib import compress

from obliviate_eval.metrics.attack import Attack, mean_loss, true_answer
from obliviate_eval.records import Probe, Record


class MiaZlib(Attack):
    """The signal is the true answer's loss over the bytes that zlib makes of its text: repetitive texts have a low loss
    without training, and few bytes. Sets whose answers differ in length are told apart by that alone.
    """

    title: ClassVar = "Zlib attack: AUC of forget against holdout, loss over compressed length"
    direction: ClassVar = "a retain model's value is the aim; 1: the forget set still looks trained on"
    source: ClassVar = "arXiv:2012.07805, section 5.1"
    needs: ClassVar = frozenset({Probe.ANSWER})

    type: Literal["mia_zlib"] = "mia_zlib"

    def signal(self, record: Record, reference: Record | None) -> float | None:
        answer, loss = true_answer(record), mean_loss(record)
        if answer is None or not answer.text or loss is None:  # imported logs may lack the text
            return None
        return loss / len(compress(answer.text.encode()))
