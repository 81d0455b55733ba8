"""From a config to the work of one stage: the data is tokenised and the model's config read, no weights are.

A text's length is the mean of the first rows'; refusals and other companions are taken to be as long as the row itself.
Generated answers are taken to be as long as they may be.
"""

from dataclasses import replace
from functools import cache
from statistics import fmean

from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.data import Corpus
from obliviate.data.rows import Row
from obliviate.data.schedule import Schedule
from obliviate.data.text import Encoded, TextEncoder
from obliviate.inference.request import room
from obliviate.methods import Pass, Positions, union_of_needs
from obliviate.models import ModelSize, load_tokenizer, model_size, text_encoder
from obliviate.schema import EngineSpec, ModelSpec
from obliviate.train.reference import scored_at
from obliviate_cli.costs.evaluation import Measuring
from obliviate_cli.costs.training import Training
from obliviate_cli.stages import check_retain, rows_to_learn
from obliviate_eval.collect import answers_of
from obliviate_eval.records import SCORED, Probe
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES

SAMPLE = 64  # texts whose length stands for all


def finetuning(config: FinetuneRun, corpus: Corpus) -> Training:
    """Raises UserError where there is nothing to learn."""
    rows = rows_to_learn(config, corpus)
    tokens, answers = _lengths(config.model, rows)
    return _training(config, len(rows), texts=1, tokens=tokens, scored=answers)


def unlearning(config: UnlearnRun, corpus: Corpus) -> Training:
    """Raises UserError where a term needs retain rows and there are none."""
    check_retain(config, corpus)
    needs = union_of_needs(config.terms)
    trained = {each: stats for each, stats in needs.items() if not each.of_reference}
    lengths: list[tuple[float, float]] = []
    for each, stats in trained.items():
        of_retain = each in (Pass.RETAIN, Pass.RETAIN_IDK)
        tokens, answers = _lengths(config.model, corpus.retain if of_retain else corpus.forget)
        where = scored_at(stats)
        if where is Positions.PADDED:  # the whole batch is as long as a text may be
            tokens = float(config.model.max_length)
        lengths.append((tokens, answers if where is Positions.ANSWER else tokens - 1))
    work = _training(
        config,
        len(corpus.forget),
        texts=len(trained),
        tokens=fmean(tokens for tokens, _ in lengths),
        scored=fmean(scored for _, scored in lengths),
    )
    visited = min(len(corpus.retain), work.steps * work.items)
    of_reference = [
        visited if each is Pass.REFERENCE_RETAIN else len(corpus.forget) for each in needs if each.of_reference
    ]
    return replace(work, reference_texts=sum(of_reference))


def _training(config: TrainingRun, anchors: int, *, texts: int, tokens: float, scored: float) -> Training:
    optim = config.optim
    return Training(
        size=_size(config.model),
        steps=Schedule(anchors, 1, 1, optim, config.seed).steps,
        items=optim.batch_size,
        micro_items=optim.micro_batch_size,
        texts_per_item=texts,
        tokens=tokens,
        scored=scored,
        checkpointing=optim.activation_checkpointing,
        compute_bytes=2 if config.model.compute_dtype == "bfloat16" else 4,
    )


def measuring(model: ModelSpec, corpus: Corpus, spec: EvaluationSpec) -> Measuring:
    """What the suite asks of one model."""
    suite, encoder = SUITES[spec.suite], _encoder(model)
    questions: list[Row] = []
    scored: list[tuple[str, str]] = []
    for each in corpus.evaluation:
        needs = suite.needs_of(each.name, each.role)
        repeats = (Probe.GENERATION in needs) + spec.sampling.samples * (Probe.SAMPLES in needs)
        questions += [row for row in each.rows if row.question] * repeats
        for row in each.rows:
            found = answers_of(row, each.role)
            scored += [(row.question, answer) for probe in SCORED if probe in needs for answer in found[probe]]
    prompts = [len(encoder.prompt(row.question)) for row in questions[:SAMPLE]]
    length = fmean(prompts) if prompts else 0.0
    texts = [len(encoder.encode(*text).input_ids) for text in scored[:SAMPLE]]
    engine = spec.engine
    return Measuring(
        size=_size(model),
        questions=len(questions),
        question_tokens=length,
        answer_tokens=room(round(length), spec.generation, engine.max_model_len) if questions else 0.0,
        scored_texts=len(dict.fromkeys(scored)),
        scored_tokens=fmean(texts) if texts else 0.0,
        replicas=engine.replicas,
        tensor_parallel=_gpus_of(engine),
    )


def _gpus_of(engine: EngineSpec) -> int:
    """A replica on a share of a GPU is counted as having it all."""
    return max(1, engine.tensor_parallel, round(engine.gpus_per_replica or 0))


def _lengths(model: ModelSpec, rows: tuple[Row, ...]) -> tuple[float, float]:
    """Mean tokens of a text, and of its answer."""
    encoder = _encoder(model)
    encoded: list[Encoded] = [encoder.encode_row(row) for row in rows[:SAMPLE]]
    return fmean(len(e.input_ids) for e in encoded), fmean(len(e.answer_ids) for e in encoded)


@cache  # several stages have one model, and a GGUF's tokenizer takes seconds to read
def _encoder(model: ModelSpec) -> TextEncoder:
    return text_encoder(model, load_tokenizer(model))


@cache
def _size(model: ModelSpec) -> ModelSize:
    return model_size(model)
