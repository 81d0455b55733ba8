"""From a config to the stages that it runs."""

from collections.abc import Sequence

from obliviate.config import FinetuneRun, RunSpec, TrainingRun, UnlearnRun
from obliviate.data import Corpus
from obliviate.errors import UserError
from obliviate.schema import ClusterSpec, EngineSpec, ModelSpec
from obliviate_cli.compare import ComparedModels, CompareRun
from obliviate_cli.continual import ContinualRun
from obliviate_cli.costs.hardware import Cluster
from obliviate_cli.costs.stage import Stage, measure, train
from obliviate_cli.costs.training import Training
from obliviate_cli.costs.work import finetuning, measuring, scoring, unlearning
from obliviate_cli.fuse import FuseRun
from obliviate_cli.measure import EvaluateRun
from obliviate_cli.stages import learnings
from obliviate_cli.sweep.sampler import open_sampler
from obliviate_cli.sweep.spec import SweepRun
from obliviate_eval.spec import EvaluationSpec


def stages(config: RunSpec, cluster: Cluster) -> list[Stage]:
    """In the order in which they run. Raises UserError for a config that there is no estimate for."""
    match config:
        case FinetuneRun():
            return [_finetune(config, cluster)]
        case UnlearnRun():
            corpus = config.data.load()
            return [*_before([config], corpus, cluster), _unlearn(config, corpus, cluster)]
        case FuseRun():
            return _fuse(config, cluster)
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
    return _trained(f"fine-tune on {config.train_on}", config, finetuning(config, config.data.load()), cluster)


def _unlearn(config: UnlearnRun, corpus: Corpus, cluster: Cluster, repeats: int = 1, at_a_time: int = 1) -> Stage:
    work = unlearning(config, corpus)
    return _trained(f"unlearn {config.label}", config, work, cluster, repeats * len(learnings(config)), at_a_time)


def _before(runs: Sequence[UnlearnRun], corpus: Corpus, cluster: Cluster, repeats: int = 1) -> list[Stage]:
    """What comes before the runs' own training, once for all that ask it alike."""
    reinforcing = {made.model_dump_json(): made for run in runs if (made := run.reinforcing) is not None}
    learned = [
        _trained("learn the forget set again", run, finetuning(run, corpus), cluster, repeats)
        for run in reinforcing.values()
    ]
    return [*learned, *_filtering(runs, corpus, cluster, repeats)]


def _filtering(runs: Sequence[UnlearnRun], corpus: Corpus, cluster: Cluster, repeats: int) -> list[Stage]:
    """What decides which forget rows need no unlearning."""
    found: dict[tuple[str, str], Stage] = {}
    for run in runs:
        if run.forget_filter is None:
            continue
        engine = run.forget_filter.engine or EngineSpec()
        for model in (run.model, run.forget_filter.reference):
            work = scoring(model, corpus.forget, engine)
            title = f"filter: score the forget set with {model.source}"
            found[run.forget_filter.model_dump_json(), model.source] = measure(title, work, cluster, repeats)
    return list(found.values())


def _fuse(config: FuseRun, cluster: Cluster) -> list[Stage]:
    """An adapter for each request, all taken to be like the first one's. Fusing takes seconds."""
    if not config.requests:
        raise UserError("plan: no adapter is trained, and fusing those that are there takes seconds")
    runs = [config.unlearning(name) for name in config.requests]
    return [_unlearn(runs[0], runs[0].data.load(), cluster, len(runs), config.concurrency)]


def _trained(
    title: str, config: TrainingRun, work: Training, cluster: Cluster, repeats: int = 1, at_a_time: int = 1
) -> Stage:
    return train(title, work, cluster, config.cluster.workers, repeats, at_a_time, _share(config.cluster))


def _share(spec: ClusterSpec) -> float:
    """Of a GPU, that a worker has. More than one whole GPU is of no use to it."""
    return min(1.0, spec.gpus_per_worker or 1.0)


def _evaluate(
    name: str,
    model: ModelSpec,
    corpus: Corpus,
    spec: EvaluationSpec,
    cluster: Cluster,
    repeats: int = 1,
    at_a_time: int = 1,
    share: float = 1.0,
) -> Stage:
    return measure(f"evaluate {name}", measuring(model, corpus, spec), cluster, repeats, at_a_time, share)


def _made(config: ComparedModels, cluster: Cluster) -> list[Stage]:
    """The model that must forget and the retain model."""
    if config.finetune is None:
        return []
    return [_finetune(config.finetuning(train_on, config.model), cluster) for train_on in ("all", "retain")]


def _compare(config: CompareRun, cluster: Cluster) -> list[Stage]:
    corpus = config.data.load()
    runs = [config.unlearning(method, config.model.source) for method in config.methods]
    seeds = max(1, len(config.seeds))
    models = len(runs) * seeds + 1 + (config.finetune is not None or config.retain_model is not None)
    evaluated = _evaluate("each model", config.model, corpus, config.evaluation, cluster, repeats=models)
    before = _before(runs, corpus, cluster, seeds)
    unlearned = [_unlearn(run, corpus, cluster, repeats=seeds) for run in runs]
    return [*_made(config, cluster), *before, *unlearned, evaluated]


def _continual(config: ContinualRun, cluster: Cluster) -> list[Stage]:
    tasks = config.data.load_tasks()
    steps = range(1, len(tasks.tasks) + 1)
    target = config.model
    found = [] if config.finetune is None else [_finetune(config.finetuning(target), cluster)]
    for method in config.methods:
        run = config.unlearning(method, 1, target, target)
        found += _before([run], tasks.corpus(1), cluster, len(steps))
        found.append(_unlearn(run, tasks.corpus(1), cluster, repeats=len(steps)))
    models = 1 + len(steps) * len(config.methods)
    evaluated = _evaluate("each model", target, tasks.corpus(1), config.evaluation, cluster, repeats=models)
    return [*found, evaluated]


def _sweep(config: SweepRun, cluster: Cluster) -> list[Stage]:
    """Every method gets an equal share of the trials; all run to their end, at the first value of every axis."""
    corpus = config.data.load()
    trials = open_sampler(config, ()).count * len(config.seeds)
    methods = list(config.space.methods)
    found = _made(config, cluster)
    for index, method in enumerate(methods):
        share = len(range(index, trials, len(methods)))
        run = config.unlearning(config.space.first(method), 0, "")
        found += _before([run], corpus, cluster)
        found.append(_unlearn(run, corpus, cluster, repeats=share, at_a_time=config.concurrency))
    evaluated = _evaluate(
        "each trial's model",
        config.model,
        corpus,
        config.evaluation,
        cluster,
        trials,
        config.concurrency,
        _share(config.cluster) if config.in_process else 1.0,
    )
    return [*found, evaluated]
