"""Task-vector negation (Ilharco et al. 2023, arXiv:2212.04089, section 4): learn the forget set, then subtract that."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Negation, Pass, Positions, Scores
from obliviate.scoring import Stat


class TaskVector(ForgetObjective):
    """Training makes a model that knows the forget set better than the starting model does: its weights theta_f hold
    what is to go. The unlearned model is theta - scale (theta_f - theta), in float32, written when training is done.

    With `mismatch`, `disassociation` and `divergence` beside it this is selective knowledge negation (Liu et al. 2024,
    arXiv:2402.10058), whose guided distortion is this cross-entropy. The logged loss therefore falls while the model
    learns what it will lose. Models of several scales share one training: only the subtraction is done again. A scale
    that is too large destroys the model, which no loss shows: measure it.

    With `learning_rates` the forget set is learned once more at each of these, and what is subtracted is the mean
    change of those entries that all learnings moved in one direction (NegMerge: Kim et al. 2024, arXiv:2410.05583).
    """

    title: ClassVar = "Task-vector negation: learn the forget set, then subtract what was learned from the weights"
    when: ClassVar = (
        "Cheap, and its strength is chosen after training; short form sku adds what should not be subtracted"
    )
    source: ClassVar = "arXiv:2212.04089, section 4"

    type: Literal["task_vector"] = "task_vector"
    scale: float = Field(default=1.0, gt=0)  # published: the largest that keeps 95 % of a control task
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()  # beside that of `optim`

    @property
    def negation(self) -> Negation:
        return Negation(self.scale, self.learning_rates)

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        """Mean over answer tokens of -log p, nats: lower is better known."""
        forget = scores[Pass.FORGET]
        return Loss.mean(-forget.logp_BT, forget.answer_BT)
