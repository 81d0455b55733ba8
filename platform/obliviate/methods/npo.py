"""Negative preference optimisation (Zhang et al. 2024, arXiv:2404.05868, eq. 3)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class NPO(ForgetObjective):
    title: ClassVar = "Negative preference optimisation: gradient ascent that fades where the answer is already gone"
    when: ClassVar = "The strong baseline of the field; pair it with gd or kl"
    source: ClassVar = "arXiv:2404.05868, eq. 3"

    type: Literal["npo"] = "npo"
    beta: float = Field(default=0.1, gt=0)  # 1/nats; beta -> 0 is gradient ascent
    # Over a text's answer tokens; "mean" is what Opt-Out and MUSE compute, "token" is TNPO (arXiv:2502.19301), in which
    # each token is a text of its own.
    reduction: Literal["sum", "mean", "token"] = "sum"

    @property
    def needs(self) -> Needs:
        return {
            Pass.FORGET: {Stat.LOGP: Positions.ANSWER},
            Pass.REFERENCE_FORGET: {Stat.LOGP: Positions.ANSWER},
        }

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts, or over answer tokens, of -(2/beta) log sigmoid(-beta log(p / p_ref))."""
        import torch.nn.functional as F

        forget, reference = scores[Pass.FORGET], scores[Pass.REFERENCE_FORGET]
        if self.reduction == "token":
            log_ratio_BT = forget.logp_BT - reference.logp_BT
            return Loss.mean(-2 / self.beta * F.logsigmoid(-self.beta * log_ratio_BT), forget.answer_BT)
        log_ratio_B = forget.logp_B - reference.logp_B  # nats
        if self.reduction == "mean":
            log_ratio_B = log_ratio_B / forget.tokens_B.clamp(min=1)
        return Loss.mean(-2 / self.beta * F.logsigmoid(-self.beta * log_ratio_B))
