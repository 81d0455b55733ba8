"""Direct preference optimisation with a refusal as the preferred answer (Rafailov et al. 2023, arXiv:2305.18290,
eq. 7; as an unlearning objective in Zhang et al. 2024, arXiv:2404.05868, which scales it by 2)."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.methods.texts import Text
from obliviate.scoring import Stat


class DPO(ForgetObjective):
    title: ClassVar = "Direct preference optimisation: prefer a refusal to the true answer"
    when: ClassVar = "Targeted unlearning with a reference model; drifts towards refusing everything"
    source: ClassVar = "arXiv:2305.18290, eq. 7, times 2"

    type: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)  # 1/nats

    @property
    def needs(self) -> Needs:
        passes = (Pass.FORGET, Pass.FORGET_IDK, Pass.REFERENCE_FORGET, Pass.REFERENCE_FORGET_IDK)
        return {each: {Stat.LOGP: Positions.ANSWER} for each in passes}

    def loss(self, scores: Scores) -> Loss:
        """Mean over texts of -(2/beta) log sigmoid(beta [log(p/p_ref)(refusal) - log(p/p_ref)(true answer)])."""
        return preference(scores, Pass.FORGET_IDK, Pass.REFERENCE_FORGET_IDK, self.beta)


def preference(scores: Scores, preferred: Text, preferred_by_reference: Text, beta: float) -> Loss:
    """DPO of the text of `preferred` over the true answer; log-probabilities are sums over answer tokens, nats."""
    import torch.nn.functional as F

    preferred_B = scores[preferred].logp_B - scores[preferred_by_reference].logp_B
    truth_B = scores[Pass.FORGET].logp_B - scores[Pass.REFERENCE_FORGET].logp_B
    return Loss.mean(-2 / beta * F.logsigmoid(beta * (preferred_B - truth_B)))
