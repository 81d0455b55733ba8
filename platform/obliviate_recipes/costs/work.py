"""From a config to the work of one stage: the data is tokenised and the model's config read, no weights are.

A text's length is the mean of the first rows'; refusals and other companions are taken to be as long as the row itself.
Generated answers are taken to be as long as they may be. Rows that a filter or early drop leaves out are counted: how
many they are is not known before. Choosing near rows takes a sentence encoder seconds, and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from statistics import fmean
from typing import Any

from obliviate.config import UnlearnRun
from obliviate.data import Corpus
from obliviate.data.rows import Row, Said
from obliviate.data.schedule import Schedule
from obliviate.data.text import Encoded, TextEncoder
from obliviate.data.world import load_world
from obliviate.fit import read_in_parts
from obliviate.inference.limits import SAMPLES, room
from obliviate.methods import Curvature, ParameterTerm, Pass, Positions, Redirection, union_of_needs
from obliviate.methods.texts import Sets
from obliviate.models import ModelSize, encoder_of, model_size
from obliviate.schema import EngineSpec, GenerationSpec, HostedSpec, ModelSpec, OptimSpec
from obliviate.scoring import Activation, Stat, needs_reference
from obliviate.source import export_dtype
from obliviate.train.phases import APART, plan_updates
from obliviate_eval.asked import suite_of
from obliviate_eval.collect import answers_of
from obliviate_eval.records import SCORED, Probe
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.costs.evaluation import InferenceWork
from obliviate_recipes.costs.hosted import Requested
from obliviate_recipes.costs.training import (
    HELD_BYTES,
    INITIAL_BYTES,
    MASTER_BYTES,
    MOMENT_BYTES,
    RECTIFIED_BYTES,
    STATE_BYTES,
    TAMPERED_BYTES,
    TrainingWork,
)

SAMPLE = 64  # texts whose length stands for all


@dataclass(frozen=True)
class Trained:
    """Steps on the workers of a cluster."""

    title: str
    training: TrainingWork
    workers: int
    share: float = 1.0  # of a GPU, that each worker has


@dataclass(frozen=True)
class Measured:
    """Texts that a model answers or scores."""

    title: str
    measuring: InferenceWork
    share: float = 1.0  # of a GPU, that each replica has


Work = Trained | Measured | Requested


def finetuning(optim: OptimSpec, seed: int, rows: tuple[Row, ...], model: ModelSpec) -> TrainingWork:
    """`model`: one whose files are there, of the shape and the tokenizer of that which is trained; so everywhere."""
    tokens, answers = _lengths(model, _said(rows))
    return _training(optim, seed, model, len(rows), texts=1, tokens=tokens, scored=answers)


def unlearning(config: UnlearnRun, corpus: Corpus, model: ModelSpec) -> TrainingWork:
    from obliviate.train.reference import scored_at
    from obliviate.train.steered import further_needs

    needs = union_of_needs(config.terms)
    apart = any(getattr(config, key) is not None for key in APART)
    updates = plan_updates(config.terms, needs, config.updates, forget_apart=apart)
    phases = [phase for update in updates for phase in update.phases if phase.trained]
    # A sharpness-aware or stable update runs over its texts a second time, with the weights moved, and one that resists
    # attacks at every point of one that it looks at; what moves hidden states finds out how, each time.
    attacks = 1 if config.stability is None else 2
    tampering = config.tampering
    points = 1 if tampering is None else tampering.steps // tampering.every
    again = attacks * points * (1 if config.sharpness is None else 2)
    rounds = [phase.trained for phase in phases for _ in range(again if phase.of_forget else 1)]
    if config.latent is not None:
        rounds += [{Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}] * (again * config.latent.steps)
    world = () if config.world is None else load_world(config.world)
    sets, lengths = Sets(corpus.forget, corpus.retain, world=world), list[tuple[float, float]]()
    for read in rounds:
        for each, stats in read.items():
            tokens, answers = _lengths(model, each.sample(sets, SAMPLE))
            where = scored_at(stats)
            if where is Positions.PADDED:  # the whole batch is as long as a text may be
                tokens = float(model.max_length)
            lengths.append((tokens, answers if where is Positions.ANSWER else tokens - 1))
    ascent = config.method.ascent
    work = _training(
        config.optim if ascent is None else ascent.optim(config.optim, len(corpus.forget)),
        config.seed,
        model,
        len(corpus.forget),
        texts=len(lengths),
        tokens=fmean(tokens for tokens, _ in lengths),
        scored=fmean(scored for _, scored in lengths),
    )
    visited = min(len(corpus.retain), work.steps * work.items)
    compared = {each.text for each, stats in needs.items() if each.of_reference or any(map(needs_reference, stats))}
    of_reference = sum(visited if each.of == "retain" else len(corpus.forget) for each in compared)
    if any(isinstance(stat, Activation) and stat.without for stat in needs.get(Pass.FORGET, {})):
        of_reference += len(corpus.forget)
    of_reference += len(corpus.forget) * len(further_needs(needs))
    if config.projection is not None:
        of_reference += min(len(corpus.retain), config.projection.texts)
    if isinstance(ascent, Curvature):  # forward for the inputs; forward and backward for the outputs
        of_reference += 4 * min(len(corpus.retain), ascent.texts)
    if isinstance(ascent, Redirection):
        of_reference += len(corpus.forget) + len(corpus.retain[: ascent.texts]) + len(ascent.prompts)
    of_weights = any(isinstance(term, ParameterTerm) for term in config.terms)
    states = 1 + max(update.optimizer for update in updates)
    return replace(
        work,
        reference_texts=of_reference,
        rounds=len(rounds),
        updates=len(updates),
        attack_steps=0 if tampering is None else attacks * tampering.steps,
        attack_items=0 if tampering is None else tampering.batch_size,
        rounded_bytes=0 if config.quantisation is None else MASTER_BYTES,
        state_bytes=STATE_BYTES
        + MOMENT_BYTES * (states - 1)
        + (INITIAL_BYTES if of_weights else 0)
        + (MOMENT_BYTES if config.updates == "dual_plus" else 0)
        + (HELD_BYTES if config.stability is not None else 0)
        + (RECTIFIED_BYTES if config.rectification is not None else 0)
        + (0 if tampering is None else TAMPERED_BYTES),
    )


def _training(
    optim: OptimSpec, seed: int, model: ModelSpec, anchors: int, *, texts: int, tokens: float, scored: float
) -> TrainingWork:
    return TrainingWork(
        size=_size(model),
        steps=Schedule(anchors, 1, 1, optim, seed).steps,
        items=optim.batch_size,
        micro_items=optim.micro_batch_size,
        texts_per_item=texts,
        tokens=tokens,
        scored=scored,
        checkpointing=optim.activation_checkpointing,
        compute_bytes=2 if model.compute_dtype == "bfloat16" else 4,
        stored_bytes=export_dtype(model).itemsize,
        in_parts=_in_parts(model),
    )


@dataclass(frozen=True)
class _Asked:
    """What a suite asks of one model: of how many questions, and of how many answers."""

    greedy: int
    sampled: int
    question_tokens: float
    scored: int
    scored_tokens: float


def _asked(model: ModelSpec, corpus: Corpus, spec: EvaluationSpec) -> _Asked:
    suite, encoder = suite_of(spec), _encoder(model)
    greedy, sampled, scored = (
        dict[Any, Row](),
        dict[Any, Row](),
        list[Said](),
    )  # each question once, as the engine has it
    for each in corpus.evaluation:
        needs, limit = suite.needs_of(each.name, each.role), suite.new_tokens_of(each.name)
        questions = [row for row in each.rows if row.question]
        greedy |= {(row.asked, limit): row for row in questions if Probe.GENERATION in needs}
        sampled |= {row.asked: row for row in questions if Probe.SAMPLES in needs}
        for row in each.rows:
            found = answers_of(row, each.role)
            scored += [row.saying(answer) for probe in SCORED if probe in needs for answer in found[probe]]
    prompts = [len(encoder.prompt(*row.asked)) for row in [*greedy.values(), *sampled.values()][:SAMPLE]]
    texts = [len(encoder.encode(*text).input_ids) for text in scored[:SAMPLE]]
    return _Asked(
        len(greedy),
        len(sampled),
        fmean(prompts) if prompts else 0.0,
        len(dict.fromkeys(scored)),
        fmean(texts) if texts else 0.0,
    )


def measuring(model: ModelSpec, corpus: Corpus, spec: EvaluationSpec) -> InferenceWork:
    """What the suite asks of one model."""
    asked, engine = _asked(model, corpus, spec), spec.engine
    questions = asked.greedy + asked.sampled * spec.sampling.samples
    length = asked.question_tokens
    return _measuring(
        model,
        engine,
        questions=questions,
        question_tokens=length,
        answer_tokens=room(round(length), spec.generation, engine.max_model_len) if questions else 0.0,
        scored_texts=asked.scored,
        scored_tokens=asked.scored_tokens,
    )


def requesting(name: str, model: ModelSpec, endpoint: HostedSpec, corpus: Corpus, spec: EvaluationSpec) -> Requested:
    """The same of a hosted model, without the trial requests."""
    asked, limit = _asked(model, corpus, spec), spec.engine.max_model_len
    length, samples = asked.question_tokens, spec.sampling.samples
    of_samples = asked.sampled * ceil(samples / SAMPLES)
    answers, sampled = (room(round(length), how, limit) for how in (spec.generation, spec.sampling))
    return Requested(
        f"ask {name} ({endpoint.model} at {endpoint.base_url})",
        requests=asked.greedy + of_samples + asked.scored,
        prompt_tokens=(asked.greedy + of_samples) * length + asked.scored * asked.scored_tokens,
        completion_tokens=asked.greedy * answers + asked.sampled * samples * sampled,
        price=endpoint.price_per_million,
    )


def scoring(model: ModelSpec, rows: Sequence[Row], engine: EngineSpec) -> InferenceWork:
    """The rows' own answers, each scored once."""
    tokens, _ = _lengths(model, _said(rows))
    return _measuring(model, engine, scored_texts=len(rows), scored_tokens=tokens)


def asking(model: ModelSpec, rows: Sequence[Row], sampling: GenerationSpec, engine: EngineSpec) -> InferenceWork:
    """Answers to the rows' questions, as many to each as are sampled."""
    encoder = _encoder(model)
    length = fmean([len(encoder.prompt(*row.asked)) for row in rows[:SAMPLE]]) if rows else 0.0
    return _measuring(
        model,
        engine,
        questions=len(rows) * sampling.samples,
        question_tokens=length,
        answer_tokens=room(round(length), sampling, engine.max_model_len),
    )


def _measuring(
    model: ModelSpec,
    engine: EngineSpec,
    *,
    questions: int = 0,
    question_tokens: float = 0.0,
    answer_tokens: float = 0.0,
    scored_texts: int = 0,
    scored_tokens: float = 0.0,
) -> InferenceWork:
    return InferenceWork(
        size=_size(model),
        questions=questions,
        question_tokens=question_tokens,
        answer_tokens=answer_tokens,
        scored_texts=scored_texts,
        scored_tokens=scored_tokens,
        replicas=engine.replicas,
        tensor_parallel=_gpus_of(engine),
    )


def _gpus_of(engine: EngineSpec) -> int:
    """A replica on a share of a GPU is counted as having it all."""
    return max(1, engine.tensor_parallel, round(engine.gpus_per_replica or 0))


def _said(rows: Sequence[Row]) -> list[Said]:
    return [row.saying(row.answer) for row in rows[:SAMPLE]]


def _lengths(model: ModelSpec, texts: Sequence[Said]) -> tuple[float, float]:
    """Mean tokens of a text, and of its answer."""
    encoder = _encoder(model)
    encoded: list[Encoded] = [encoder.encode(*text) for text in texts]
    return fmean(len(e.input_ids) for e in encoded), fmean(len(e.answer_ids) for e in encoded)


@cache  # several stages have one model, and a GGUF's tokenizer takes seconds to read
def _encoder(model: ModelSpec) -> TextEncoder:
    return encoder_of(model)


@cache
def _in_parts(model: ModelSpec) -> bool:
    return read_in_parts(model)


@cache
def _size(model: ModelSpec) -> ModelSize:
    return model_size(model)
