"""What a sweep would do: trials by method, steps, what is shared."""

from collections import Counter

from obliviate import storage
from obliviate.data.rows import Corpus, require_training_texts
from obliviate.data.schedule import Schedule
from obliviate_cli.stages import check_data
from obliviate_cli.sweep.sampler import Sampler, open_sampler
from obliviate_cli.sweep.spec import OptunaSampler, SweepRun


def sweep(config: SweepRun) -> list[str]:
    """Raises UserError where a method cannot run on the data."""
    corpus = config.data.load()
    check_methods(config, corpus)
    sampler = open_sampler(config, ())
    trials = sampler.count * len(config.seeds)
    lines = [f"warning: {warning}" for warning in corpus.warnings]
    if config.finetune is not None:
        lines.append("fine-tune the model that must forget and the retain model, once")
    lines.append("evaluate the original and the retain model once, for all trials" if _has_retain(config) else
                 "evaluate the original once, for all trials")  # fmt: skip
    lines.append(
        f"{sampler.count} configurations x {len(config.seeds)} seeds = {trials} trials, {config.concurrency} at a "
        f"time, sampler {config.sampler.type}, scheduler {config.scheduler.type}"
    )
    if not isinstance(config.sampler, OptunaSampler):
        lines += _steps(config, sampler, len(corpus.forget))
    return [*lines, f"report in {storage.name(storage.local(config.runs))}"]


def check_methods(config: SweepRun, corpus: Corpus) -> None:
    """Raises UserError where a method cannot run on the data, before anything is computed for its trials."""
    require_training_texts(corpus)
    for point in config.space.corners():
        check_data(config.unlearning(point, 0, ""), corpus)


def _steps(config: SweepRun, sampler: Sampler, anchors: int) -> list[str]:
    """Of the points that are known beforehand, if every trial ran to its end."""
    count: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    while (point := sampler.propose()) is not None:
        run = config.unlearning(point, 0, "")
        count[point.method] += 1
        steps[point.method] += Schedule(anchors, 1, 1, run.optim, 0).steps * len(config.seeds)
    return [f"  {method}: {count[method]} configurations, {steps[method]} steps at most" for method in count]


def _has_retain(config: SweepRun) -> bool:
    return config.finetune is not None or config.retain_model is not None
