"""Is a generation clean text, or gibberish?"""

from collections.abc import Sequence

from obliviate_eval.judges.classifier import Classifier

MAX_LENGTH = 32  # tokens: as much of a TOFU answer as OpenUnlearning judges
CLEAN = 0  # the class


class FluencyModel:
    """A classifier whose class 0 is clean text."""

    def __init__(self, source: str) -> None:
        """Raises UserError where there is no such model."""
        self._classifier = Classifier("evaluation.fluency", source, MAX_LENGTH)

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The probability that each text is clean."""
        return [p_L[CLEAN] for p_L in self._classifier(texts)]
