"""SHRED: self-distillation with the surprising tokens' logits lowered (Hu et al. 2026, arXiv:2605.07482, after its
abstract and project page)."""

from math import inf
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores, mask_BT
from obliviate.scoring import Distilled, Stat

if TYPE_CHECKING:
    from torch import Tensor


class SHRED(ForgetObjective):
    """What a text tells that the model could not guess lies in its least likely tokens. There the target is the
    starting model's distribution with the true token's logit lowered by beta; at all other tokens, the prompt's too,
    it is that distribution itself, which holds the model in place without a retain set.

    Both targets are cut to their `top` likeliest tokens. Each text's share of tokens is of its own answer, rounded up,
    and chosen once, by the starting model. Published values of share, beta and top were not at hand: the defaults are
    ours, beta UNDIAL's.
    """

    title: ClassVar = "SHRED: lower the true token's logit where it was least likely, imitate the start elsewhere"
    when: ClassVar = "Without a retain set, and for one request after the other; no regularizer"
    source: ClassVar = "arXiv:2605.07482"

    type: Literal["shred"] = "shred"
    share: float = Field(default=0.3, gt=0, le=1)  # of a text's answer tokens, the least likely, are forgotten
    beta: float = Field(default=10.0, gt=0)  # nats
    top: int = Field(default=100, ge=1)  # tokens of a target
    skip: int = Field(default=0, ge=0)  # first tokens of an answer that are context: never forgotten
    positions: Positions = Positions.SEQUENCE  # where the others are held

    @property
    def needs(self) -> Needs:
        return {
            Pass.FORGET: dict.fromkeys((self._lowered, self._held), self.positions),
            Pass.REFERENCE_FORGET: {Stat.LOGP: Positions.ANSWER},
        }

    @property
    def _lowered(self) -> Distilled:
        return Distilled("reference", self.beta, self.top)

    @property
    def _held(self) -> Distilled:
        return Distilled("reference", 0.0, self.top)

    def loss(self, scores: Scores) -> Loss:
        """Mean over tokens of CE(target, softmax(z)), nats: the KL from the target, plus its entropy."""
        import torch

        forget = scores[Pass.FORGET]
        told_BT = forget.answer_BT & (forget.answer_BT.cumsum(-1) > self.skip)
        low_BT = least(scores[Pass.REFERENCE_FORGET].logp_BT, told_BT, self.share)
        loss_BT = torch.where(low_BT, forget.stats[self._lowered], forget.stats[self._held])
        return Loss.mean(loss_BT, mask_BT(forget, self.positions))


def least(values_BT: "Tensor", mask_BT: "Tensor", share: float) -> "Tensor":
    """Where each row's smallest values are, of those that the mask marks: that share of them, rounded up; of equal ones
    the first."""
    count_B1 = (mask_BT.sum(-1, keepdim=True) * share - 1e-6).ceil()
    order_BT = values_BT.masked_fill(~mask_BT, inf).argsort(dim=-1, stable=True)
    rank_BT = order_BT.argsort(dim=-1)
    return (rank_BT < count_B1) & mask_BT
