"""Looks inside models, each a function that a process with room for a model runs: rows in, numbers of each out.

Shapes: L layers, P predicting places of an item, D hidden size, A answers of a row.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from obliviate.data.key_facts import key_spans
from obliviate.data.rows import EvaluationSet, Row
from obliviate.data.text import Encoded, TextEncoder
from obliviate.inference.hf import HFEngine, opened
from obliviate.models import encoder_of, stop_ids
from obliviate.schema import EngineSpec, ModelSpec
from obliviate_eval.collect import Sampling, collect
from obliviate_eval.inside.embedding import Controlled, begun, control_ids, embedded, optimised
from obliviate_eval.inside.lens import lens
from obliviate_eval.inside.orthogonal import Means, directions, means, most_moved, without
from obliviate_eval.inside.patching import depth, patched_logp, span_logp
from obliviate_eval.inside.probe import probed
from obliviate_eval.inside.states import Ids, Item, layer_states
from obliviate_eval.inside.suffix import Searching, asking, suffixes
from obliviate_eval.records import Record
from obliviate_eval.suites.base import Suite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

START = "!"  # what control tokens begin as, as published
TOP = 4  # likeliest tokens of a layer that an attacker would try, as after Patil et al.


class Known(NamedTuple):
    """Of an item: mean log-probabilities of its fact by layer, in nats. `original`: the model's own, the same for all
    layers; `patched`: with the layer's states from the retain model. The other two are the logit lens's."""

    original: list[float]
    patched: list[float]
    lens_original: list[float]
    lens_retain: list[float]


class Depth(NamedTuple):
    """Of an item: the share of its knowledge that is left, 1 as in the original and 0 as in the retain model; and the
    share of its tokens among the TOP likeliest of some layer of the model itself. None: not scored."""

    patch: float | None
    lens: float | None
    in_top: float | None


def items_of(encoder: TextEncoder, rows: Sequence[Row]) -> list[Item | None]:
    """The true answers and where their facts stand; the whole answer where that is not known. None where it was cut
    off."""
    return [_item(encoder, row, encoder.encode(*row.saying(row.fact))) for row in rows]


def _item(encoder: TextEncoder, row: Row, text: Encoded) -> Item | None:
    spans = key_spans(row) or ((0, len(row.fact)),)
    places = tuple(text.prompt_length + place for place in encoder.places(text, row.fact, spans))
    return Item(text.input_ids, places) if places else None


def known(original: ModelSpec, retain: ModelSpec, rows: Sequence[Row], engine: EngineSpec) -> list[Known | None]:
    """What all depths are compared with, once for all unlearned models."""
    items = items_of(_encoder(original), rows)
    asked = [item for item in items if item is not None]
    lost, _ = _states(retain, asked, engine)
    model, _ = opened(original, engine)
    own = _states_in(model, asked, engine)
    logp = span_logp(model, asked, engine.batch_tokens)
    patched = patched_logp(model, asked, lost, engine.batch_tokens)
    lenses = [lens(model, asked, states) for states in (own, lost)]
    found = iter(
        Known([whole] * len(by_layer), by_layer, of_original.by_layer, of_retain.by_layer)
        for whole, by_layer, of_original, of_retain in zip(logp, patched, *lenses, strict=True)
    )
    return [None if item is None else next(found) for item in items]


def depths(
    original: ModelSpec, target: ModelSpec, rows: Sequence[Row], engine: EngineSpec, compared: Sequence[Known | None]
) -> list[Depth]:
    """`compared`: what `known` gave of the same rows."""
    items = items_of(_encoder(original), rows)
    pairs = list(zip(items, compared, strict=True))
    asked = [(item, before) for item, before in pairs if item is not None and before is not None]
    texts = [item for item, _ in asked]
    states, in_top = _states(target, texts, engine)
    model, _ = opened(original, engine)
    patched = patched_logp(model, texts, states, engine.batch_tokens)
    lenses = lens(model, texts, states)
    found = iter(
        Depth(
            _left(depth(before.original, before.patched, by_layer)),
            _left(depth(before.lens_original, before.lens_retain, read.by_layer)),
            top,
        )
        for (_, before), by_layer, read, top in zip(asked, patched, lenses, in_top, strict=True)
    )
    return [Depth(None, None, None) if None in pair else next(found) for pair in pairs]


def truths(target: ModelSpec, rows: Sequence[Row], engine: EngineSpec, seed: int) -> list[float | None]:
    """Of each row what a linear probe tells of its answers; the rows have false ones."""
    encoder = _encoder(target)
    answers = [(row.paraphrased_answer or row.fact, *row.perturbed_answers) for row in rows]
    texts = [encoder.encode(*row.saying(each)) for row, said in zip(rows, answers, strict=True) for each in said]
    # The last token that says anything: the end of turn is the same in all.
    last = [(len(text.input_ids) - (1 if text.cut else 2),) for text in texts]
    model, _ = opened(target, engine)
    states_1LD = layer_states(model, [text.input_ids for text in texts], last, engine.batch_tokens)
    states_ALD = torch.stack([each[:, 0] for each in states_1LD]).double().numpy()
    ends = np.cumsum([len(said) for said in answers])[:-1]
    return probed(np.split(states_ALD, ends), seed)


def means_of(original: ModelSpec, rows: Sequence[Row], engine: EngineSpec) -> Means:
    """Of the original model's states over the rows' questions."""
    model, _ = opened(original, engine)
    return means(model, _questions(_encoder(original), rows), engine.batch_tokens)


def orthogonalised(
    original: ModelSpec,
    target: ModelSpec,
    rows: Sequence[Row],
    engine: EngineSpec,
    compared: Means,
    sets: Sequence[EvaluationSet],
    suite: Suite,
    sampling: Sampling,
) -> dict[str, list[Record]]:
    """Records of the target without what unlearning added, from all layers and from the one that moved furthest; each
    also with the original's mean in its place.

    `compared`: what `means_of` gave of the same rows.
    """
    model, tokenizer = opened(target, engine)
    moved = means(model, _questions(_encoder(original), rows), engine.batch_tokens, compared)
    all_LD = directions(moved, compared)
    one_LD, most = torch.zeros_like(all_LD), most_moved(moved, compared)
    one_LD[most] = all_LD[most]
    asked = HFEngine(model, tokenizer, engine, stop_ids(target, tokenizer))
    found = {}
    for name, chosen_LD, to in (
        ("all", all_LD, None),
        ("one", one_LD, None),
        ("all-mean", all_LD, compared),
        ("one-mean", one_LD, compared),
    ):
        with without(model, chosen_LD, to):
            found[name] = collect(asked, _encoder(target), sets, suite, sampling, lambda stage, done, total: None)
    return found


class Optimising(NamedTuple):
    """`tokens` control tokens, signed steps of size `step`, measured after each of `iterations`; the aim is the first
    `target_tokens` of each answer."""

    tokens: int
    step: float
    iterations: tuple[int, ...]
    target_tokens: int


def with_embeddings(
    target: ModelSpec,
    rows: Sequence[Row],
    engine: EngineSpec,
    how: Optimising,
    sets: Sequence[EvaluationSet],
    suite: Suite,
    sampling: Sampling,
) -> dict[int, list[Record]]:
    """Records of the target, asked with control tokens that were optimised on these rows: iterations -> records."""
    encoder = _encoder(target)
    model, tokenizer = opened(target, engine)
    asked = [row for each in sets for row in each.rows] + list(rows)
    said = [row.saying(answer) for row in asked for answer in (row.fact, *row.perturbed_answers)]
    used = {token for each in said for token in encoder.encode(*each).input_ids}
    controls = control_ids(how.tokens, len(tokenizer), used | set(tokenizer.all_special_ids))
    texts = [begun(encoder.encode(*row.saying(row.fact)), how.target_tokens) for row in rows]
    embedding = model.get_input_embeddings()
    first = torch.tensor(tokenizer(START, add_special_tokens=False).input_ids[-1:], device=model.device)
    steps = optimised(model, texts, controls, embedding(first)[0], how.step, engine.batch_tokens)
    found = {}
    for iteration, vectors_KD in enumerate(islice(steps, max(how.iterations)), 1):
        if iteration in how.iterations:
            with embedded(model, controls, vectors_KD):
                plain = HFEngine(model, tokenizer, engine, stop_ids(target, tokenizer))
                told = Controlled(plain, controls)
                found[iteration] = collect(told, encoder, sets, suite, sampling, lambda stage, done, total: None)
    return found


def with_suffix(
    target: ModelSpec,
    rows: Sequence[Row],
    engine: EngineSpec,
    how: Searching,
    sets: Sequence[EvaluationSet],
    suite: Suite,
    sampling: Sampling,
) -> dict[int, tuple[str, list[Record]]]:
    """A suffix that was searched for on these rows, and records of the target with it behind each question:
    iterations -> both."""
    encoder = _encoder(target)
    model, tokenizer = opened(target, engine)
    asked_by = HFEngine(model, tokenizer, engine, stop_ids(target, tokenizer))
    found = {}
    search = suffixes(model, encoder, rows, how, engine.batch_tokens)
    for iteration, suffix in enumerate(islice(search, max(how.iterations)), 1):
        if iteration in how.iterations:
            behind = [replace(each, rows=tuple(asking(row, suffix) for row in each.rows)) for each in sets]
            records = collect(asked_by, encoder, behind, suite, sampling, lambda stage, done, total: None)
            found[iteration] = (suffix, records)
    return found


def _left(depth: float | None) -> float | None:
    return None if depth is None else 1 - depth


def _encoder(spec: ModelSpec) -> TextEncoder:
    return encoder_of(spec)


def _questions(encoder: TextEncoder, rows: Sequence[Row]) -> list[Ids]:
    """Plain texts, which ask nothing, as a whole."""
    texts = [encoder.encode(*row.saying(row.answer)) for row in rows]
    return [text.prompt_ids if row.question else text.input_ids for row, text in zip(rows, texts, strict=True)]


def _states(spec: ModelSpec, items: Sequence[Item], engine: EngineSpec) -> tuple[list[Tensor], list[float]]:
    """Of a model that is then let go: what its layers put out where the facts are predicted, [L, P, D], and what its
    own output layer makes of that."""
    model, _ = opened(spec, engine)
    states = _states_in(model, items, engine)
    return states, [read.in_top(TOP) for read in lens(model, items, states)]


def _states_in(model: "PreTrainedModel", items: Sequence[Item], engine: EngineSpec) -> list[Tensor]:
    return layer_states(model, [item.ids for item in items], [item.predicting for item in items], engine.batch_tokens)
