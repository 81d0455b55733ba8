"""What a run would do: stages, steps, tokens and memory, without loading a model's weights."""

from typing import TYPE_CHECKING

from obliviate import fit, storage
from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.data.refusals import load_refusals
from obliviate.methods import compares, union_of_needs
from obliviate_cli.alternatives import rows_without_alternatives
from obliviate_cli.costs.training import Training
from obliviate_cli.costs.work import finetuning, unlearning
from obliviate_cli.stages import rows_to_learn, text_warnings
from obliviate_eval.asked import suite_of

if TYPE_CHECKING:
    from obliviate.data import Corpus
    from obliviate_cli.compare import CompareRun


def finetune(config: FinetuneRun) -> list[str]:
    corpus = config.data.load()
    work = finetuning(config, corpus)
    rows = len(rows_to_learn(config, corpus))
    return [*_warnings(config, corpus), _training(config, f"fine-tune on {rows} rows ({config.train_on})", work)]


def unlearn(config: UnlearnRun) -> list[str]:
    corpus = config.data.load()
    work = unlearning(config, corpus)
    load_refusals(config.refusals)  # what is wrong with the file is found now, not when training is to begin
    title = f"unlearn {len(corpus.forget)} rows with {config.label}, retain set of {len(corpus.retain)}"
    reinforcing = config.reinforcing
    before = [] if reinforcing is None else finetune(reinforcing)
    lines = [*before, *_warnings(config, corpus), _training(config, title, work)]
    if config.forget_filter is not None:
        lines.append(f"  first scored, and with {config.forget_filter.reference.source}: which rows need no unlearning")
    if missing := rows_without_alternatives(config, corpus):
        lines.append(f"  first {config.alternatives.samples} other answers to {len(missing)} questions, from the model")
    if config.early_drop is not None:
        lines.append("  at most: after each epoch, rows that the model no longer answers are left out")
    if (negation := config.method.negation) is not None:
        if rates := negation.learning_rates:
            lines.append(f"  {len(rates) + 1} times: also at learning rates {', '.join(map(str, rates))}")
        lines.append(f"  then {negation.scale:g} times the change of the weights subtracted from the original")
    if compares(union_of_needs(config.terms)):
        lines.append(
            "  first what terms compare with, from the starting model: one forward pass of these texts, no second model"
        )
    return lines


def compare(config: "CompareRun") -> list[str]:
    lines = []
    if config.finetune is not None:
        lines += [
            line for train_on in ("all", "retain") for line in finetune(config.finetuning(train_on, config.model))
        ]
    for method in config.methods:
        lines += unlearn(config.unlearning(method, config.model.source))
    if config.seeds:
        lines.append(f"each method with {len(config.seeds)} seeds: {', '.join(map(str, config.seeds))}")
    unlearned = len(config.methods) * len(config.seeds or (config.seed,))
    models = unlearned + 1 + (config.finetune is not None or config.retain_model is not None)
    return [
        *dict.fromkeys(lines),  # a warning about the data once, not for each stage
        f"evaluate {models} models with {suite_of(config.evaluation).name}",
        f"report in {storage.name(storage.local(config.runs))}",
    ]


def _warnings(config: TrainingRun, corpus: "Corpus") -> list[str]:
    of_texts = text_warnings(config.model, (*corpus.forget, *corpus.retain))
    return [f"warning: {warning}" for warning in (*corpus.warnings, *fit.notes(config.model), *of_texts)]


def _training(config: TrainingRun, title: str, work: Training) -> str:
    workers = config.cluster.workers
    return (
        f"{title}: {work.steps} steps of {work.items} items, about {work.step_tokens:.0f} tokens a step, "
        f"{work.step_tokens * work.steps:.0f} in all; {work.memory_bytes(workers) / 2**30:.1f} GiB for weights, "
        f"gradients, optimiser and activations on each of {workers} worker(s)"
    )
