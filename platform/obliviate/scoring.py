"""What can be known of a token of a text: the statistics that a method asks for, and gets.

Shapes: B texts, T tokens, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


class Stat(StrEnum):
    """What can be known of one token without keeping the distribution P_t = softmax(z) it came from."""

    LOGP = "logp"  # log p(y_t | y_<t)
    ENTROPY = "entropy"  # H(P_t)
    UNIFORM_KL = "uniform_kl"  # KL(U || P_t) = logsumexp(z) - mean(z) - log V
    REFERENCE_KL = "reference_kl"  # KL(P_ref,t || P_t)
    REFERENCE_JS = "reference_js"  # Jensen-Shannon divergence of P_ref,t and P_t, at most log 2
    LOGIT_GAP = "logit_gap"  # max(z) - mean(z)
    RIVAL = "rival"  # log p of the likeliest token but y_t
    LOG_VOCABULARY = "log_vocabulary"  # log V


@dataclass(frozen=True)
class Distilled:
    """Cross-entropy from a teacher's distribution to P_t, once the teacher's logit of y_t is lowered by `lowered`.

    At infinity y_t is left out of the teacher's distribution. The teacher gets no gradient: it is the frozen reference,
    or the model itself as it is at this moment. With `top`, the reference's distribution is that of its so many
    likeliest tokens alone, once y_t is lowered: one more product with its head.
    """

    teacher: Literal["reference", "self"]
    lowered: float  # nats
    top: int | None = None  # None: all tokens

    def __post_init__(self) -> None:
        assert self.top is None or self.teacher == "reference", "the model's own logits are met only once"

    def __str__(self) -> str:
        return f"distilled_{self.teacher}_{self.lowered}" + ("" if self.top is None else f"_top_{self.top}")


@dataclass(frozen=True)
class Generic:
    """log p of the token that the generic prediction finds likeliest: z_ref - alpha relu(z_reinforced - z_ref), of the
    frozen reference and of the same model after it has learned the texts (obliviate.head.GenericHead)."""

    alpha: float

    def __str__(self) -> str:
        return f"generic_{self.alpha}"


@dataclass(frozen=True)
class Steered:
    """Cross-entropy to P_t from the frozen reference's distribution, steered towards what it says behind one prompt and
    away from what it says behind another: z_ref + eta (z_novice - z_expert) (obliviate.head.SteeredHead)."""

    novice: str
    expert: str
    eta: float

    def __str__(self) -> str:
        return f"steered_{self.eta}_{self.novice}_{self.expert}"


@dataclass(frozen=True)
class Activation:
    """What a layer puts out at the token itself, not at the one before: a vector [D].

    `layer` is a decoder layer's number, from 0, or the name of any module of the model, as "model.layers.7". So many
    of the leading components of what it puts out for the forget set are taken out (obliviate.train.components).
    """

    layer: int | str
    without: int = 0

    def __str__(self) -> str:
        return f"activation_{self.layer}" + (f"_without_{self.without}" if self.without else "")


TokenStat = Stat | Distilled | Generic | Steered  # a number for each token, of the distribution that predicts it
AnyStat = TokenStat | Activation


def needs_reference(stat: AnyStat) -> bool:
    """Whether the statistic compares with the frozen model's distribution."""
    return (
        stat in (Stat.REFERENCE_KL, Stat.REFERENCE_JS)
        or isinstance(stat, Generic | Steered)
        or (isinstance(stat, Distilled) and stat.teacher == "reference")
    )


@dataclass(frozen=True)
class TokenScores:
    """Statistics of the tokens of B texts; a statistic is 0 where its position was not asked for.

    `answer_BT` marks the tokens of the answer, its end-of-turn token included; `sequence_BT` every token that has a
    predecessor (prompt and answer, and padding where a method asked for it).
    """

    stats: "Mapping[AnyStat, Tensor]"
    answer_BT: "Tensor"
    sequence_BT: "Tensor"

    @property
    def logp_BT(self) -> "Tensor":
        return self.stats[Stat.LOGP]

    @property
    def logp_B(self) -> "Tensor":
        """Summed over the answer's tokens, nats."""
        return (self.stats[Stat.LOGP] * self.answer_BT).sum(-1)

    @property
    def tokens_B(self) -> "Tensor":
        """Answer tokens of each text."""
        return self.answer_BT.sum(-1)

    def activation_BTD(self, layer: int | str, without: int = 0) -> "Tensor":
        """float32, whatever the model computes in: squared distances of bfloat16 would be coarse."""
        return self.stats[Activation(layer, without)].float()
