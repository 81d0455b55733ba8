"""Self-BLEU: how alike sampled answers to one question are (Zhu et al. 2018, Texygen, arXiv:1802.01886)."""

from math import fsum
from typing import ClassVar, Literal

from obliviate_eval.metrics.base import Metric
from obliviate_eval.records import Probe, Record
from obliviate_eval.words import spaced


class SelfBleu(Metric):
    """Mean BLEU-4 of each sample with the question's other samples as references: 1 where all are the same.

    BLEU is sacrebleu's (13a tokens, and characters where a script has no spaces; exponential smoothing, effective
    order), not Texygen's: comparable with other work that uses it, and short answers do not all score 0. The authors
    compare samples of one model, as here; over answers to different questions the number says more of the questions.
    Fewer than two samples are not scored.
    """

    title: ClassVar = "Self-BLEU of the sampled answers to a question"
    direction: ClassVar = "higher: the samples say the same"
    source: ClassVar = "arXiv:1802.01886"
    needs: ClassVar = frozenset({Probe.SAMPLES})

    type: Literal["self_bleu"] = "self_bleu"

    def score(self, record: Record) -> float | None:
        samples = [spaced(sample) for sample in record.samples]
        if len(samples) < 2:
            return None
        from sacrebleu.metrics.bleu import BLEU

        bleu = BLEU(effective_order=True)
        scores = [
            bleu.sentence_score(sample, [*samples[:i], *samples[i + 1 :]]).score / 100
            for i, sample in enumerate(samples)
        ]
        return min(1.0, fsum(scores) / len(scores))
