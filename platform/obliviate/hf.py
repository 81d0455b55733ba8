"""Our objectives inside Hugging Face's trainers (transformers.Trainer, TRL's SFTTrainer), by a `compute_loss_func`.

`token_scores` turns logits and labels into what the losses take, for whoever has a trainer and texts of their own.
`Unlearner` brings the rest: texts of all passes in the batches of our own schedule, the frozen model's answers, and a
loss whose means are over a whole optimiser step, as in our own loop.

Shapes: B texts, T tokens, V vocabulary.
"""

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from obliviate.blockwise import wanted_hidden
from obliviate.data.refusals import REFUSALS
from obliviate.data.rows import Row, parse_row, without_overlap
from obliviate.data.schedule import Schedule
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError
from obliviate.head import Head
from obliviate.logits import score_logits
from obliviate.methods import (
    FORGET_DOOR,
    REGULARIZER_DOOR,
    ForgetObjective,
    ParameterTerm,
    Scores,
    Term,
    Text,
    check_texts,
    compares,
    composed,
    expand,
    label_of,
    needs_reinforced,
    reads,
    union_of_needs,
)
from obliviate.rows_needed import check_rows
from obliviate.schema import OptimSpec
from obliviate.scoring import Activation, AnyStat, Distilled, Stat, Steered, TokenScores, needs_reference
from obliviate.train.batch import Batch, Texts, collate
from obliviate.train.model import ScoredModel
from obliviate.train.reference import Reference, compute, scored_at

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

IGNORED = -100  # transformers' label of a token that is no answer
ITEM = "item"  # the one key of a row of the dataset


def token_scores(
    logits_BTV: Tensor,
    labels_BT: Tensor,
    stats: Collection[AnyStat],
    reference_logits_BTV: Tensor | None = None,
    sequence_BT: Tensor | None = None,
) -> TokenScores:
    """The scores of texts that one forward pass has read, differentiable in its logits.

    `labels_BT` are the input ids, -100 where a token is no answer's: not shifted, as transformers wants them.
    `sequence_BT` (the attention mask) is for statistics of the prompt too: methods with `positions: sequence`. What
    tells of the true token is scored in the answer alone. `reference_logits_BTV` are the frozen model's, of the same
    texts, for statistics that compare with it. Raises ValueError where these are missing, or a statistic is of a
    layer's hidden states.
    """
    answer_BT = labels_BT != IGNORED
    sequence_BT = answer_BT.clone() if sequence_BT is None else sequence_BT.bool() | answer_BT
    answer_BT[:, 0] = sequence_BT[:, 0] = False
    reference_z_NV = None if reference_logits_BTV is None else wanted_hidden(reference_logits_BTV, sequence_BT)
    found = score_logits(logits_BTV, labels_BT.clamp(min=0), sequence_BT, stats, reference_z_NV)
    of_token = {stat for stat in found if stat in (Stat.LOGP, Stat.RIVAL) or isinstance(stat, Distilled)}
    return TokenScores(
        {stat: value_BT * answer_BT if stat in of_token else value_BT for stat, value_BT in found.items()},
        answer_BT,
        sequence_BT,
    )


class Unlearner:
    """A method and its rows as the parts of a trainer: `dataset`, `collate`, `loss`, and the settings that they need.

    `method` is a short form ("npo+gd") or the terms themselves, the forget objective first. Rows may be mappings with
    our keys, as a `datasets.Dataset` gives them. `optim` says how many items meet in a step, and for how long; call
    `with_reference` before training where a term compares with the model as it was.

    Raises UserError for a term that needs more than logits, and for rows that lack what a term needs.
    """

    def __init__(
        self,
        method: str | Sequence[Term],
        encoder: TextEncoder,
        forget: Iterable[Row | Mapping[str, Any]],
        retain: Iterable[Row | Mapping[str, Any]] = (),
        *,
        refusals: Sequence[str] = REFUSALS,
        world: Iterable[Row | Mapping[str, Any]] = (),
        optim: OptimSpec | None = None,
        pairing: Literal["fresh", "fixed"] = "fresh",
        seed: int = 0,
    ) -> None:
        self._terms = tuple(term.seeded(seed) for term in _terms(method))
        self._needs = union_of_needs(self._terms)
        self._passes = [each for each in self._needs if not each.of_reference]
        forget_rows, retain_rows, world_rows = _rows(forget, "forget"), _rows(retain, "retain"), _rows(world, "world")
        retain_rows, overlap = without_overlap(forget_rows, retain_rows)
        for warning in overlap:
            warnings.warn(warning, stacklevel=2)
        if not forget_rows:
            raise UserError("forget: has no rows; give at least one row to forget")
        if reads(self._terms, "world") and not world_rows:
            raise UserError("world: the term world trains on general instructions; give rows of them")
        check_rows(self._terms, forget_rows, retain_rows, needs_retain=reads(self._terms, "retain"))
        counts = (len(forget_rows), len(retain_rows), len(refusals))
        self._schedule = Schedule(*counts, optim or OptimSpec(), seed, pairing, len(world_rows))
        self._items = [item for step in range(self._schedule.steps) for item in self._schedule.step(step)]
        self._texts = Texts(encoder, forget_rows, retain_rows, refusals, world_rows)
        self._texts.encode(list(dict.fromkeys(each.text for each in self._needs)), self._items)
        self._max_length = encoder.max_length
        self._reference: Reference | None = None
        self._reference_head: Head | None = None
        self._counted: dict[int, tuple[list[float], tuple[int, int]]] = {}  # of each step: the terms', the labels

    @property
    def dataset(self) -> "Dataset":
        """The items of all steps in their order: to be read once, from first to last."""
        from datasets import Dataset

        return Dataset.from_dict({ITEM: range(len(self._items))})

    def settings(self, processes: int = 1) -> dict[str, Any]:
        """For `TrainingArguments` or `SFTConfig`: what makes the trainer's steps those of the schedule.

        Raises UserError where the micro-batches of `processes` do not make up a batch.
        """
        optim = self._schedule.optim
        accumulated, rest = divmod(optim.batch_size, optim.micro_batch_size * processes)
        if rest:
            raise UserError(
                f"optim.micro_batch_size: {optim.micro_batch_size} items on each of {processes} processes do not make "
                f"up optim.batch_size {optim.batch_size}; give one that divides it"
            )
        return {
            "per_device_train_batch_size": optim.micro_batch_size,
            "gradient_accumulation_steps": accumulated,
            "num_train_epochs": 1,  # the dataset holds all of them, each with retain rows of its own
            "train_sampling_strategy": "sequential",
            "remove_unused_columns": False,
            "learning_rate": optim.learning_rate,
            "lr_scheduler_type": "linear" if optim.schedule == "linear" else "constant_with_warmup",
            "warmup_steps": self._schedule.warmup_steps,
            "weight_decay": optim.weight_decay,
            "adam_beta1": optim.betas[0],
            "adam_beta2": optim.betas[1],
            "max_grad_norm": optim.max_grad_norm or 0.0,
            "gradient_checkpointing": optim.activation_checkpointing,
        }

    def with_reference(self, model: "PreTrainedModel") -> Self:
        """Keep what the model, as it is now, says of every text that a term compares with it: no second model is held.
        Nothing is done where no term compares. A training that is resumed needs the same again, of the first model.
        """
        if not compares(self._needs):
            return self
        scored, training = ScoredModel(model), model.training
        scored.require_same_logits()
        scored.eval()
        self._reference = compute(
            scored, self._texts, self._needs, [self._items], 0, size=self._schedule.optim.micro_batch_size,
            max_length=self._max_length, device=model.device,
        )  # fmt: skip
        self._reference_head = scored.copy_head(model.dtype) if self._reference.hidden else None
        model.train(training)
        return self

    def collate(self, features: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
        """The texts of every pass over these items, one pass after the other.

        A text's first token is predicted by nothing, and no loss reads its label: the item's number is there, which
        `loss` needs.
        """
        if not all(ITEM in feature for feature in features):
            raise UserError(
                f"remove_unused_columns: true takes away the dataset's {ITEM!r}; pass **unlearner.settings() to the "
                "TrainingArguments"
            )
        numbers = torch.tensor([feature[ITEM] for feature in features])
        batch = self._batch(numbers.tolist())
        labels_BT = batch.input_ids_BT.masked_fill(~batch.answer_BT, IGNORED)
        labels_BT[:, 0] = numbers.repeat(len(self._passes))
        return {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_BT, "labels": labels_BT}

    def loss(self, outputs: "ModelOutput", labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The `compute_loss_func`: this batch's share in the weighted loss of its optimiser step.

        Raises UserError where the trainer's step is not one of the schedule, which would weigh texts wrongly.
        """
        items = labels[: len(labels) // len(self._passes), 0].tolist()
        if compares(self._needs) and self._reference is None:
            raise UserError(
                f"method: {label_of(self._terms)} compares with the model as it was; call with_reference(model) before "
                "training"
            )
        counts = self._counts(items, num_items_in_batch)
        scores = self._scores(self._batch(items).to(labels.device), outputs.logits)
        shares = [term.weight * term.loss(scores).sum / n for term, n in zip(self._terms, counts, strict=True)]
        return torch.stack(shares).sum()

    def _batch(self, items: Sequence[int]) -> Batch:
        return collate(self._texts, [self._items[number] for number in items], self._needs, self._max_length)

    def _scores(self, batch: Batch, logits_BTV: Tensor) -> Scores:
        found: dict[Text, TokenScores] = {}
        reference = self._reference or Reference()
        for each, stats in self._needs.items():
            if each.of_reference:
                found[each] = reference.scores(each, stats, batch)
                continue
            reference_z_NV = None
            if any(map(needs_reference, stats)):
                assert self._reference_head is not None
                hidden_ND = reference.hidden_of(each, batch)
                self._reference_head = self._reference_head.to(hidden_ND.device)  # the trainer may have moved the model
                reference_z_NV = self._reference_head.logits(hidden_ND)
            rows, wanted_BT = batch.rows[each], batch.wanted_BT(each, scored_at(stats))
            values = score_logits(logits_BTV[rows], batch.input_ids_BT[rows], wanted_BT, stats, reference_z_NV)
            found[each] = batch.scores(each, values)
        return found

    def _counts(self, items: Sequence[int], labels: Tensor | int | None) -> Sequence[float]:
        """Each term's count over the step that these items are of, in which the trainer has counted so many labels."""
        if isinstance(labels, Tensor) and labels.numel() > 1:  # one for each
            raise UserError(
                "CUDA_VISIBLE_DEVICES: the trainer spreads one process over several GPUs (nn.DataParallel) and weighs "
                "losses otherwise; start a process for each of them with torchrun, or show it a single one"
            )
        size = self._schedule.optim.batch_size
        step = items[0] // size
        if step not in self._counted:
            whole = self._batch(range(step * size, (step + 1) * size))
            blank = whole.blank(self._needs)
            counts = [max(1.0, float(term.loss(blank).count)) for term in self._terms]
            # Some families' trainers count the first tokens' labels too, which no loss reads.
            answers = int(whole.answer_BT.sum())
            self._counted[step] = (counts, (answers, answers + len(whole.answer_BT)))
        counts, expected = self._counted[step]
        if items[-1] // size != step or (labels is not None and int(labels) not in expected):
            raise UserError(
                f"optim.batch_size: {size}: the trainer's steps are of other items, and texts would count wrongly; "
                "pass **unlearner.settings(processes) to the TrainingArguments, with average_tokens_across_devices"
            )
        return counts


def _rows(given: Iterable[Row | Mapping[str, Any]], name: str) -> tuple[Row, ...]:
    return tuple(
        row if isinstance(row, Row) else parse_row(row, f"{name} row {number}") for number, row in enumerate(given, 1)
    )


def _terms(method: str | Sequence[Term]) -> tuple[Term, ...]:
    """Raises UserError where a trainer that hands over logits cannot train one."""
    if isinstance(method, str):
        long = expand(method)
        rest = (REGULARIZER_DOOR.made_of(each) for each in long["regularizers"])
        terms: tuple[Term, ...] = (FORGET_DOOR.made_of(long["method"]), *rest)
    else:
        terms = tuple(method)
    try:
        terms = composed(terms)
        check_texts(terms)
    except ValueError as error:
        raise UserError(f"method: {label_of(terms)}: {error}") from error
    for term in terms:
        if (reason := _out_of_reach(term)) is not None:
            raise UserError(
                f"method: {term.type}: {reason}; train it with `obliviate unlearn`, or take a term of logits alone: "
                "npo, dpo, idk or me, with gd or kl"
            )
    return terms


def _out_of_reach(term: Term) -> str | None:
    """Why a compute_loss_func, which sees the logits of one model, cannot train it."""
    if isinstance(term, ParameterTerm):
        return "compares weights with the initial ones, and a compute_loss_func sees none"
    if isinstance(term, ForgetObjective) and term.initial_noise:
        return "adds noise to the weights before training"
    if isinstance(term, ForgetObjective) and term.negation is not None:
        return "is half of a negation, which subtracts weights once training is done"
    if isinstance(term, ForgetObjective) and term.ascent is not None:
        return "moves the weights itself, where a trainer's optimiser would"
    if type(term).next_weight is not Term.next_weight:
        return "has a weight that moves with each step's loss, which a trainer's checkpoint would forget"
    if any(isinstance(stat, Activation) for wanted in term.needs.values() for stat in wanted):
        return "reads hidden states, and a compute_loss_func gets logits"
    if any(isinstance(stat, Steered) for wanted in term.needs.values() for stat in wanted):
        return "compares with the model as it was behind other prompts, which the trainer's batches have not"
    if needs_reinforced([term]):
        return "learns from a second model, which has learned the forget set again"
    return None
