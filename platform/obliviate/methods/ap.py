"""Answer preservation ("A Closer Look at Machine Unlearning for LLMs", arXiv:2410.08109, section 3.2)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Loss, Needs, Pass, Positions, Regularizer, Scores
from obliviate.scoring import Stat


class AP(Regularizer):
    title: ClassVar = "Answer preservation: on the retain set prefer the true answer to a refusal"
    when: ClassVar = "The companion of idk (IDK+AP): stops over-refusal without a reference model"
    source: ClassVar = "arXiv:2410.08109, section 3.2"

    type: Literal["ap"] = "ap"
    beta: float = Field(default=0.1, gt=0)  # 1/nats

    @property
    def needs(self) -> Needs:
        return {each: {Stat.LOGP: Positions.ANSWER} for each in (Pass.RETAIN, Pass.RETAIN_IDK)}

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of -(1/beta) log sigmoid(beta log(p(answer) / p(refusal))); log-probabilities are sums."""
        import torch.nn.functional as F

        margin_B = scores[Pass.RETAIN].logp_B - scores[Pass.RETAIN_IDK].logp_B  # nats
        return Loss.mean(-F.logsigmoid(self.beta * margin_B) / self.beta)
