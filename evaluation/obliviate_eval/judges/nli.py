"""Natural language inference: does the premise entail the hypothesis?"""

from collections.abc import Sequence

from obliviate.errors import UserError
from obliviate_eval.judges import Pair
from obliviate_eval.judges.classifier import Classifier

MAX_LENGTH = 512  # tokens of both texts


class NliModel:
    """A cross-encoder with an "entailment" label."""

    def __init__(self, source: str, key: str = "evaluation.nli") -> None:
        """Raises UserError, with the config's key, for no such model, and for one without the label "entailment"."""
        self._classifier = Classifier(key, source, MAX_LENGTH)
        labels = self._classifier.labels.values()
        if "entailment" not in labels:
            raise UserError(
                f"{key}: {source}: none of its labels ({', '.join(labels)}) is entailment; give a model trained for NLI"
            )

    def __call__(self, pairs: Sequence[Pair]) -> list[str]:
        """The label of each (premise, hypothesis)."""
        return [self._classifier.labels[p_L.index(max(p_L))] for p_L in self._classifier(pairs)]
