"""Gradient ascent: minus the cross-entropy of the forget set (Jang et al. 2023, arXiv:2210.01504, eq. 2)."""

from typing import ClassVar, Literal

from obliviate.methods.likelihood import OfLikelihood


class GA(OfLikelihood):
    title: ClassVar = "Gradient ascent: raise the loss of the forget set"
    when: ClassVar = "The simplest baseline. Unbounded: it collapses the model when it runs for long"
    source: ClassVar = "arXiv:2210.01504, eq. 2"

    type: Literal["ga"] = "ga"
