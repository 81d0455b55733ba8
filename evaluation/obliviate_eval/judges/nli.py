"""Natural language inference: does the premise entail the hypothesis? (transformers, sequence classification)"""

from collections.abc import Sequence

from obliviate.errors import UserError
from obliviate_eval.judges import Pair
from obliviate_eval.judges.source import locate, quiet_transformers, unavailable

BATCH_SIZE = 32  # pairs
MAX_LENGTH = 512  # tokens of both texts; the longer text is cut


class NliModel:
    """A cross-encoder with an "entailment" label. Each distinct pair is judged once, in batches of similar length."""

    def __init__(self, source: str) -> None:
        """Raises UserError where there is no such model, or none of its labels is "entailment"."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        located = locate("evaluation.nli", source)
        try:
            with quiet_transformers():
                self._tokenizer = AutoTokenizer.from_pretrained(located)
                model = AutoModelForSequenceClassification.from_pretrained(located, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise unavailable("evaluation.nli", source, error) from error
        self._labels = {i: str(label).lower() for i, label in model.config.id2label.items()}
        if "entailment" not in self._labels.values():
            raise UserError(
                f"evaluation.nli: {source}: none of its labels ({', '.join(self._labels.values())}) is entailment; "
                "give a model trained for NLI"
            )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()

    def __call__(self, pairs: Sequence[Pair]) -> list[str]:
        """The label of each (premise, hypothesis)."""
        import torch

        distinct = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        labels: dict[Pair, str] = {}
        for start in range(0, len(distinct), BATCH_SIZE):
            batch = distinct[start : start + BATCH_SIZE]
            premises, hypotheses = zip(*batch, strict=True)
            encoded = self._tokenizer(
                list(premises),
                list(hypotheses),
                padding=True,
                truncation=True,
                max_length=min(MAX_LENGTH, self._tokenizer.model_max_length),
                return_tensors="pt",
            ).to(self._device)
            with torch.inference_mode():
                logits_BL = self._model(**encoded).logits
            labels |= {pair: self._labels[i] for pair, i in zip(batch, logits_BL.argmax(-1).tolist(), strict=True)}
        return [labels[pair] for pair in pairs]
