"""RepSelect (Sondej, Yang and Mahdi 2026, arXiv:2606.17168, section 4): ascent along a gradient whose strongest
directions are weakened, because what they move is shared with what is kept, and is what relearning finds first."""

import re
from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Selection
from obliviate.methods.likelihood import OfLikelihood

MLP = r"\.(mlp|feed_forward|ffn|block_sparse_moe|experts|shared_experts?)\."


class RepSelect(OfLikelihood):
    """G is the gradient of the forget set's loss in one weight matrix, over one pass, with `rank` singular triplets
    U S V^T (randomised) and S' = S / min S. The step is along (I - U (I - S'^-1) U^T) G (I - V (I - S'^-1) V^T): a
    direction of strength s > min S ends with (min S)^2 / s, so that what was strongest becomes weakest; what is beyond
    the rank stays as it is. Singular values that are rounding alone are left out of the rank. The same step is made
    `steps` times; end it by what it costs.

    While G is taken, the weights hold a low-rank adapter that was trained on the forget set by one pass of plain
    descent at the rate `adversary` (batches of `optim.batch_size`): what a relearning attack would find.

    After the authors' code. That adds up the gradients of its batches' means, where here it is the mean over all answer
    tokens: its eta is as many times smaller as it has batches.
    """

    title: ClassVar = "RepSelect: ascent along the forget gradient, its strongest directions weakened"
    when: ClassVar = "Where forgetting must survive relearning. No retain set; choose steps by what is kept"
    source: ClassVar = "arXiv:2606.17168, section 4"

    type: Literal["repselect"] = "repselect"
    eta: float = Field(default=0.05, gt=0)  # published: searched from 0.005 to 0.5
    steps: int = Field(default=10, ge=1)
    rank: int = Field(default=512, ge=1)
    adversary: float = Field(default=0.01, ge=0)  # learning rate of the adapter; 0: none. Searched from 0.005 to 0.5
    trainable: re.Pattern[str] | None = re.compile(MLP)

    @property
    def ascent(self) -> Selection:
        return Selection(self.eta, self.steps, self.rank, self.adversary)
