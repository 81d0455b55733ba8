"""Preservation divergence: away from the starting model on the retain set (SKU; arXiv:2402.10058, section 3.2)."""

from typing import ClassVar, Literal, Self

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Regularizer, Scores, mask_BT
from obliviate.scoring import Stat


class Divergence(Regularizer):
    """-KL(P_ref || P). What training takes away on the retain set, negation gives back: only with `task_vector`.

    The published term has no lower bound and in the end outweighs all others; `bound` stops its pull at tokens that
    have gone so far.
    """

    title: ClassVar = "Preservation divergence: leave the starting model's distribution on the retain set"
    when: ClassVar = "The third of SKU's terms, which negation turns into its opposite; never without task_vector"
    source: ClassVar = "arXiv:2402.10058, section 3.2"

    type: Literal["divergence"] = "divergence"
    positions: Positions = Positions.SEQUENCE
    bound: float | None = Field(default=None, gt=0)  # nats per token; None: as published

    def beside(self, forget: ForgetObjective) -> Self:
        if forget.negation is None:
            raise ValueError(
                f"regularizers: {self.type} beside {forget.type} would only destroy what is to be kept: it is for "
                "task_vector, whose negation turns it round; take kl"
            )
        return self

    @property
    def needs(self) -> Needs:
        return {Pass.RETAIN: {Stat.REFERENCE_KL: self.positions}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over the tokens at `positions` of -min(KL, bound), nats."""
        retain = scores[Pass.RETAIN]
        divergence_BT = retain.stats[Stat.REFERENCE_KL]
        if self.bound is not None:
            divergence_BT = divergence_BT.clamp(max=self.bound)
        return Loss.mean(-divergence_BT, mask_BT(retain, self.positions))
