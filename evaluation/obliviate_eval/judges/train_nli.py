"""A small NLI judge made from a sentence encoder, for demonstrations without a model hub.

A general NLI model reads any sentence; this one knows the wordings that it was trained on, and is to judge those alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

from obliviate.runs import whole_folder
from obliviate_eval.judges.nli import NliModel
from obliviate_eval.judges.source import locate, quiet_transformers, unavailable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = ("entailment", "neutral", "contradiction")
BATCH_SIZE = 8  # pairs
LEARNING_RATE = 1e-4  # the peak; above what fine-tuning takes, because there is only one epoch
HEAD_FACTOR = 10  # times that for the head, which starts from nothing: without it training may stay on a plateau
MAX_GRAD_NORM = 1.0
WARMUP = 0.1  # of all steps
MAX_LENGTH = 96  # tokens of both texts


class LabelledPair(Protocol):
    @property
    def premise(self) -> str: ...
    @property
    def hypothesis(self) -> str: ...
    @property
    def label(self) -> str: ...


def train_nli(
    encoder_source: str,
    pairs: Sequence[LabelledPair],
    held_out_pairs: Sequence[LabelledPair],
    folder: Path,
    seed: int = 0,
) -> float:
    """One epoch over `pairs` from the encoder's weights; the model is saved in `folder`. Returns the held-out accuracy.

    A minute of one CPU core for 2,400 short pairs and a MiniLM. Raises UserError where the encoder can't be loaded.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    located = locate("evaluation.encoder", encoder_source)
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(seed)
        try:
            tokenizer = AutoTokenizer.from_pretrained(located)
            model = AutoModelForSequenceClassification.from_pretrained(
                located,
                dtype=torch.float32,
                id2label=dict(enumerate(LABELS)),
                label2id={label: i for i, label in enumerate(LABELS)},
            )
        except (OSError, ValueError) as error:
            raise unavailable("evaluation.encoder", encoder_source, error) from error
        _fit(model, tokenizer, list(_batches(pairs, seed)))
        with whole_folder(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    given = NliModel(str(folder))([(pair.premise, pair.hypothesis) for pair in held_out_pairs])
    right = sum(label == pair.label for label, pair in zip(given, held_out_pairs, strict=True))
    return right / len(held_out_pairs)


def _fit(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batches: Sequence[Sequence[LabelledPair]]
) -> None:
    import torch
    from transformers import get_linear_schedule_with_warmup

    # Evaluation mode: without dropout the model finds out sooner that it is to compare the two texts.
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    model.get_input_embeddings().requires_grad_(False)  # half of the weights, of which few words are seen
    # The pooler counts as head: a sentence encoder takes the mean of all tokens and never used it.
    body: list[torch.nn.Parameter] = []
    head: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_encoder = name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name
            (body if of_encoder else head).append(parameter)
    groups = [{"params": body, "lr": LEARNING_RATE}, {"params": head, "lr": LEARNING_RATE * HEAD_FACTOR}]
    optimiser = torch.optim.AdamW(groups)
    schedule = get_linear_schedule_with_warmup(optimiser, round(WARMUP * len(batches)), len(batches))
    for batch in batches:
        encoded = tokenizer(
            [pair.premise for pair in batch],
            [pair.hypothesis for pair in batch],
            padding=True,
            truncation=True,
            max_length=MAX_LENGTH,
            return_tensors="pt",
        ).to(model.device)
        label_B = torch.tensor([LABELS.index(pair.label) for pair in batch], device=model.device)
        model(**encoded, labels=label_B).loss.backward()
        torch.nn.utils.clip_grad_norm_([*body, *head], MAX_GRAD_NORM)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()


def _batches(pairs: Sequence[LabelledPair], seed: int) -> Iterator[list[LabelledPair]]:
    shuffled = Random(seed).sample(pairs, len(pairs))
    for start in range(0, len(shuffled), BATCH_SIZE):
        yield shuffled[start : start + BATCH_SIZE]
