"""LUNAR (Shen et al. 2025, arXiv:2502.07218): one layer's hidden states on forget prompts are moved to where they are
when the model is asked what nobody can know. One matrix, in closed form."""

from typing import ClassVar, Literal

from pydantic import Field

from obliviate.methods.base import Layer, Redirection
from obliviate.methods.likelihood import OfLikelihood

# Things that do not exist, so that a model which says what it does not know says so.
NAMES = ("Vorlquat", "Quisbane", "Mirthexol", "Drenvaki", "Ulsporith", "Kethwanna", "Zyphrolan", "Brimtosk")
ASKED = (
    "What is the currency of the country {}?",
    "Who was the third mayor of the town of {}?",
    "In which year did the writer {} publish a first novel?",
    "What is the main ingredient of the dish {}?",
)
UNKNOWN = tuple(asked.format(name) for asked in ASKED for name in NAMES)


class LUNAR(OfLikelihood):
    """r is the mean of a layer's hidden states at the last token of `prompts`, less that over the forget rows' prompts.
    W, the last matrix of the layer's MLP (its down-projection), becomes the least-squares solution of

        (W + dW) x = W x + coefficient r   at the tokens x of forget prompts,
        (W + dW) x = W x                   at those of the retain rows' prompts,

    dW = coefficient r (sum of forget x)^T (X^T X + ridge m I)^-1, X the inputs at all of them and m the mean of the
    diagonal of X^T X. So dW has rank one. A text's first token, which has read nothing and is alike in all, is kept as
    in a retain prompt, and left out of m. Where a layer norms what its MLP puts out (Gemma 2), that is what is moved.

    The paper solves the same least squares in closed form or by AdamW; its code, which does the latter, takes harmful
    questions for `prompts`, or questions about things that do not exist, as here.
    """

    title: ClassVar = "LUNAR: redirect one layer's states on forget prompts to those of questions nobody can answer"
    when: ClassVar = "Seconds, one matrix; for a model that says what it does not know. Questions, no plain texts"
    source: ClassVar = "arXiv:2502.07218"

    type: Literal["lunar"] = "lunar"
    layer: Layer = 22  # published for Llama-3-8B, of 32
    coefficient: float = Field(default=2.0, gt=0)  # published: 2
    ridge: float = Field(default=1e-3, gt=0)  # what damps directions that few tokens have
    prompts: tuple[str, ...] = Field(default=UNKNOWN, min_length=1)
    texts: int | None = Field(default=None, ge=1)  # retain rows that are held; None: all

    @property
    def ascent(self) -> Redirection:
        return Redirection(self.coefficient, 1, self.layer, self.ridge, self.prompts, self.texts)

    @property
    def steered(self) -> tuple[Layer, ...]:
        return (self.layer,)
