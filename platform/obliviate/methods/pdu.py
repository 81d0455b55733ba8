"""Logit flattening, the forget term of primal-dual unlearning (Entesari et al. 2025, arXiv:2506.05314)."""

from typing import ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat


class PDU(ForgetObjective):
    """Published code takes the logits at the answer's tokens, which predict the tokens after them; here they are those
    that predict the answer's tokens."""

    title: ClassVar = "PDU: flatten the logits on the forget set, with the retain loss as a constraint (bounded_gd)"
    when: ClassVar = "When a retain loss is known that must not be exceeded; short form pdu = pdu+bounded_gd"
    source: ClassVar = "arXiv:2506.05314"

    type: Literal["pdu"] = "pdu"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGIT_GAP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of (max_v z - mean_v z)^2."""
        forget = scores[Pass.FORGET]
        return Loss.mean(forget.stats[Stat.LOGIT_GAP].square(), forget.answer_BT)
