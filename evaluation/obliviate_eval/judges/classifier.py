"""A text classifier, of texts or of pairs of texts (transformers, sequence classification)."""

from collections.abc import Sequence
from typing import TypeVar

from obliviate_eval.judges.source import locate, quiet_transformers, unavailable

BATCH_SIZE = 32  # inputs
Input = TypeVar("Input", str, tuple[str, str])


class Classifier:
    """Each distinct input is classified once, in batches of similar length; of a pair the longer text is cut."""

    def __init__(self, key: str, source: str, max_length: int) -> None:
        """`key` is the config's key, for messages. Raises UserError where there is no such model."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        located = locate(key, source)
        try:
            with quiet_transformers():
                self._tokenizer = AutoTokenizer.from_pretrained(located)
                model = AutoModelForSequenceClassification.from_pretrained(located, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise unavailable(key, source, error) from error
        self.labels = {i: str(label).lower() for i, label in model.config.id2label.items()}
        self._max_length = min(max_length, self._tokenizer.model_max_length)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()

    def __call__(self, inputs: Sequence[Input]) -> list[list[float]]:
        """The probability of each class, by number, of each input."""
        import torch

        found: dict[Input, list[float]] = {}
        distinct = sorted(set(inputs), key=lambda each: (sum(map(len, each)), each))
        for start in range(0, len(distinct), BATCH_SIZE):
            batch = distinct[start : start + BATCH_SIZE]
            columns = [batch] if isinstance(batch[0], str) else [list(column) for column in zip(*batch, strict=True)]
            encoded = self._tokenizer(
                *columns, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                p_BL = self._model(**encoded).logits.softmax(-1)
            found |= zip(batch, p_BL.tolist(), strict=True)
        return [found[each] for each in inputs]
