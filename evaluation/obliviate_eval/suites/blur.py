"""BLUR's combined queries (Hu et al. 2025, arXiv:2506.15699; Thaker et al. 2024, arXiv:2410.02879)."""

from obliviate_eval.metrics import Rouge
from obliviate_eval.suites.base import Suite

BLUR = Suite(
    name="blur",
    title="BLUR (arXiv:2506.15699): a question to forget and one to keep in one prompt, in both orders; needs no judge",
    metrics=(Rouge(words="published"),),
)
