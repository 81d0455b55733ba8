"""FLAT: loss adjustment with forget data only (Wang et al. 2025, arXiv:2410.11143, eq. 6 and table 2)."""

from math import log
from typing import TYPE_CHECKING, ClassVar, Literal

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat, TokenScores

if TYPE_CHECKING:
    from torch import Tensor

Divergence = Literal["kl", "total_variation", "jensen_shannon", "pearson"]


class FLAT(ForgetObjective):
    """The variational form of an f-divergence between a refusal and the forget answer is made large: with P(y) the mean
    over y's tokens of their probabilities, -g(P(refusal)) + f*(g(P(answer))), where g is the divergence's optimal
    variational function and f* its conjugate. Bounded, because P lies between 0 and 1.
    """

    title: ClassVar = "FLAT: prefer a refusal to the forget answer by an f-divergence of their probabilities"
    when: ClassVar = "Forget set alone, with neither a reference nor a retain term"
    source: ClassVar = "arXiv:2410.11143, eq. 6"

    type: Literal["flat"] = "flat"
    divergence: Divergence = "kl"

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}, Pass.FORGET_IDK: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of -g(P(refusal)) + f*(g(P(answer)))."""
        refusal_B, answer_B = (_probability_B(scores[each]) for each in (Pass.FORGET_IDK, Pass.FORGET))
        variational_B, _ = _g_and_conjugate(self.divergence, refusal_B)
        _, conjugate_B = _g_and_conjugate(self.divergence, answer_B)
        return Loss.mean(conjugate_B - variational_B)


def _probability_B(scores: TokenScores) -> "Tensor":
    """Mean over the answer's tokens of p(y_t | y_<t): not the probability of their whole."""
    return (scores.logp_BT.exp() * scores.answer_BT).sum(-1) / scores.tokens_B.clamp(min=1)


def _g_and_conjugate(divergence: Divergence, v_B: "Tensor") -> "tuple[Tensor, Tensor]":
    """g(v) and f*(g(v))."""
    import torch.nn.functional as F

    match divergence:
        case "kl":
            return v_B, (v_B - 1).exp()
        case "total_variation":
            return v_B.tanh() / 2, v_B.tanh() / 2
        case "jensen_shannon":  # g = log 2 - log(1 + e^-v); f*(u) = -log(2 - e^u), which is softplus(v) - log 2 at g
            return log(2) - F.softplus(-v_B), F.softplus(v_B) - log(2)
        case "pearson":
            return v_B, v_B.square() / 4 + v_B
