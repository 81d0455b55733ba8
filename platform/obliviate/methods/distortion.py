"""Weight distortion (arXiv:2505.22310): noise on all weights, and then the retain set."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import ForgetObjective, Loss, Needs, Scores


class Distortion(ForgetObjective):
    """Adds N(0, std^2) to every trained weight before the first step; what is trained afterwards, `gd` as published,
    brings back what it is shown. No forget text is read.

    After the paper. Drawn from the run's seed, for each parameter as a whole: the same on any number of workers. What
    regularizers compare with is the model without noise.
    """

    title: ClassVar = "Weight distortion: noise on all weights, then the retain set"
    when: ClassVar = "Where forgetting must survive relearning; beside gd, whose rows must cover all that is kept"
    source: ClassVar = "arXiv:2505.22310"

    type: Literal["distortion"] = "distortion"
    std: float = Field(default=0.02, gt=0)  # of the noise

    @property
    def initial_noise(self) -> float:
        return self.std

    @property
    def needs(self) -> Needs:
        return {}

    def loss(self, scores: Scores) -> Loss:
        raise TypeError("distortion is noise on the weights, and no loss")
