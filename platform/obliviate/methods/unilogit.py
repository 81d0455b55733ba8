"""Unilogit: self-distillation to a true token of uniform probability (Vasilev et al. 2025, arXiv:2505.06027)."""

from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class Unilogit(ForgetObjective):
    """The target is the model's own distribution with the true token's logit set so that its probability is 1/V: what
    UNDIAL's `beta` has to be guessed for. The reverse divergence KL(P || target) then depends on p = P(y) alone,
    p log(p V) + (1 - p) log((1 - p) / (1 - 1/V)), with the same gradient; it rests on neither a reference nor on beta.
    """

    title: ClassVar = "Unilogit: imitate the model itself with the true tokens at uniform probability"
    when: ClassVar = "As undial, without a strength to choose or a reference; pair it with gd or kl"
    source: ClassVar = "arXiv:2505.06027"

    type: Literal["unilogit"] = "unilogit"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER, Stat.LOG_VOCABULARY: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens, nats."""
        import torch

        forget = scores[Pass.FORGET]
        log_vocabulary_BT = forget.stats[Stat.LOG_VOCABULARY]
        # At a probability of 1 the gradient vanishes, but log(1 - p) alone is not finite.
        logp_BT = forget.logp_BT.clamp(max=-1e-6)
        rest_BT = -torch.expm1(logp_BT)
        others_BT = rest_BT.log() - torch.where(forget.answer_BT, torch.log1p(-(-log_vocabulary_BT).exp()), 0)
        return Loss.mean(logp_BT.exp() * (logp_BT + log_vocabulary_BT) + rest_BT * others_BT, forget.answer_BT)
