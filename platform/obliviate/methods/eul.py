"""The forget side of efficient unlearning (EUL; Chen and Yang 2023, arXiv:2310.20150, section 3.2)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class EUL(ForgetObjective):
    """The selective teacher-student objective away from the starting model, and the language-modelling loss reversed:
    -KL(P_ref || P) + likelihood x log p. Its other half, KL and cross-entropy on the retain set, is `kl` and `gd`.

    The published divergence has no lower bound; here a token that has gone `bound` nats away pulls no more. Published
    with small layers beside a frozen model: set `model.lora`, one adapter a request, and fuse them.
    """

    title: ClassVar = "EUL: leave the starting model on the forget set, as small layers beside a frozen model"
    when: ClassVar = "One adapter a request, fused afterwards (obliviate fuse); short form eul = eul+kl+gd"
    source: ClassVar = "arXiv:2310.20150, section 3.2"

    type: Literal["eul"] = "eul"
    bound: float | None = Field(default=10.0, gt=0)  # nats per token; None: as published
    likelihood: float = Field(default=0.1, ge=0)  # gamma, of the reversed language-modelling loss

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.REFERENCE_KL: Positions.ANSWER, Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of -min(KL, bound) + likelihood x log p, nats."""
        forget = scores[Pass.FORGET]
        away_BT = forget.stats[Stat.REFERENCE_KL]
        if self.bound is not None:
            away_BT = away_BT.clamp(max=self.bound)
        return Loss.mean(self.likelihood * forget.logp_BT - away_BT, forget.answer_BT)
