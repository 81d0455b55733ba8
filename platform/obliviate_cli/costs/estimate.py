"""From a config to the stages it runs, each with what it does: the data is read and tokenised, no weights are.

A text's length is the mean of the first rows'; refusals and other companions are taken to be as long as the row itself.
Generated answers are taken to be as long as they may be.
"""

from dataclasses import replace
from functools import cache
from statistics import fmean

from obliviate.config import FinetuneRun, RunSpec, TrainingRun, UnlearnRun
from obliviate.data import Corpus
from obliviate.data.rows import Row
from obliviate.data.schedule import Schedule
from obliviate.data.text import Encoded, TextEncoder
from obliviate.errors import UserError
from obliviate.inference.request import room
from obliviate.methods import Pass, Positions, union_of_needs
from obliviate.models import ModelSize, load_tokenizer, model_size, text_encoder
from obliviate.schema import EngineSpec, ModelSpec
from obliviate.train.reference import scored_at
from obliviate_cli.compare import ComparedModels, CompareRun
from obliviate_cli.continual import ContinualRun
from obliviate_cli.costs.evaluation import Measuring
from obliviate_cli.costs.hardware import Cluster
from obliviate_cli.costs.stage import Stage, measure, train
from obliviate_cli.costs.training import Training
from obliviate_cli.measure import EvaluateRun
from obliviate_cli.stages import check_retain, rows_to_learn
from obliviate_cli.sweep.sampler import open_sampler
from obliviate_cli.sweep.space import Point
from obliviate_cli.sweep.spec import SweepRun
from obliviate_eval.collect import answers_of
from obliviate_eval.records import SCORED, Probe
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES

SAMPLE = 64  # texts whose length stands for all


def stages(config: RunSpec, cluster: Cluster) -> list[Stage]:
    """In the order in which they run. Raises UserError for a config that there is no estimate for."""
    match config:
        case FinetuneRun():
            return [_finetune(config, cluster)]
        case UnlearnRun():
            return [_unlearn(config, config.data.load(), cluster)]
        case EvaluateRun():
            corpus = config.data.load()
            return [_evaluate(name, model, corpus, config.evaluation, cluster) for name, model in config.models.items()]
        case CompareRun():
            return _compare(config, cluster)
        case ContinualRun():
            return _continual(config, cluster)
        case SweepRun():
            return _sweep(config, cluster)
        case _:
            raise UserError(f"plan: {type(config).__name__}: only training and evaluation are estimated")


def _finetune(config: FinetuneRun, cluster: Cluster) -> Stage:
    rows = rows_to_learn(config, config.data.load())
    tokens, answers = _lengths(config.model, rows)
    work = _training(config, len(rows), texts=1, tokens=tokens, scored=answers)
    return _trained(f"fine-tune on {config.train_on}", config, work, cluster)


def _unlearn(config: UnlearnRun, corpus: Corpus, cluster: Cluster, repeats: int = 1, at_a_time: int = 1) -> Stage:
    work = unlearning(config, corpus)
    return _trained(f"unlearn {config.label}", config, work, cluster, repeats, at_a_time)


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


def _trained(
    title: str, config: TrainingRun, work: Training, cluster: Cluster, repeats: int = 1, at_a_time: int = 1
) -> Stage:
    """A worker with a share of a GPU gets that share of its speed and memory."""
    share = min(1.0, config.cluster.gpus_per_worker or 1.0)
    gpu = replace(
        cluster.gpu,
        memory_bytes=cluster.gpu.memory_bytes * share,
        flops_per_s=cluster.gpu.flops_per_s * share,
        memory_bytes_per_s=cluster.gpu.memory_bytes_per_s * share,
    )
    return train(title, work, replace(cluster, gpu=gpu), config.cluster.workers, repeats, at_a_time, share)


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


def _evaluate(
    name: str,
    model: ModelSpec,
    corpus: Corpus,
    spec: EvaluationSpec,
    cluster: Cluster,
    repeats: int = 1,
    at_a_time: int = 1,
) -> Stage:
    return measure(f"evaluate {name}", measuring(model, corpus, spec), cluster, repeats, at_a_time)


def _made(config: ComparedModels, cluster: Cluster) -> list[Stage]:
    """The model that must forget and the retain model."""
    if config.finetune is None:
        return []
    return [_finetune(config.finetuning(train_on, config.model), cluster) for train_on in ("all", "retain")]


def _compare(config: CompareRun, cluster: Cluster) -> list[Stage]:
    corpus = config.data.load()
    runs = [config.unlearning(method, config.model.source) for method in config.methods]
    models = len(runs) + 1 + (config.finetune is not None or config.retain_model is not None)
    evaluated = _evaluate("each model", config.model, corpus, config.evaluation, cluster, repeats=models)
    return [*_made(config, cluster), *(_unlearn(run, corpus, cluster) for run in runs), evaluated]


def _continual(config: ContinualRun, cluster: Cluster) -> list[Stage]:
    tasks = config.data.load_tasks()
    steps = range(1, len(tasks.tasks) + 1)
    target = config.model
    found = [] if config.finetune is None else [_finetune(config.finetuning(target), cluster)]
    for method in config.methods:
        run = config.unlearning(method, 1, target, target)
        found.append(_unlearn(run, tasks.corpus(1), cluster, repeats=len(steps)))
    models = 1 + len(steps) * len(config.methods)
    evaluated = _evaluate("each model", target, tasks.corpus(1), config.evaluation, cluster, repeats=models)
    return [*found, evaluated]


def _sweep(config: SweepRun, cluster: Cluster) -> list[Stage]:
    """Every method gets an equal share of the trials, all of which run to their end with the config's own values."""
    corpus = config.data.load()
    trials = open_sampler(config, ()).count * len(config.seeds)
    methods = list(config.space.methods)
    found = _made(config, cluster)
    for index, method in enumerate(methods):
        share = len(range(index, trials, len(methods)))
        run = config.unlearning(Point(method, {}), 0, "")
        found.append(_unlearn(run, corpus, cluster, repeats=share, at_a_time=config.concurrency))
    return [
        *found,
        _evaluate(
            "each trial's model", config.model, corpus, config.evaluation, cluster, trials, at_a_time=config.concurrency
        ),
    ]


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
