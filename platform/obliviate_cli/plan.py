"""What a run would do: stages, steps, tokens and memory, without loading a model's weights."""

from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING

from obliviate import storage
from obliviate.config import FinetuneRun, TrainingRun, UnlearnRun
from obliviate.data.refusals import load_refusals
from obliviate.data.schedule import Schedule
from obliviate.methods import Pass, union_of_needs
from obliviate.models import load_tokenizer, model_size, text_encoder
from obliviate.schema import ModelSpec
from obliviate_cli.alternatives import rows_without_alternatives
from obliviate_cli.stages import check_retain, rows_to_learn

if TYPE_CHECKING:
    from obliviate.data import Corpus, Row, TextEncoder
    from obliviate.models import ModelSize
    from obliviate_cli.compare import CompareRun

# float32 master, gradient and two Adam moments, and the gathered copy in the compute dtype.
BYTES_PER_TRAINED, BYTES_PER_FROZEN = 4 * 4, 4
COMPUTE_BYTES = {"float32": 4, "bfloat16": 2}
SAMPLE = 64  # texts whose length stands for all


def finetune(config: FinetuneRun) -> list[str]:
    corpus = config.data.load()
    rows = rows_to_learn(config, corpus)
    title = f"fine-tune on {len(rows)} rows ({config.train_on})"
    return [*_warnings(corpus), _training(config, title, len(rows), _tokens(config.model, rows), 1)]


def unlearn(config: UnlearnRun) -> list[str]:
    corpus = config.data.load()
    check_retain(config, corpus)
    load_refusals(config.refusals)  # what is wrong with the file is found now, not when training is to begin
    needs = union_of_needs(config.terms)
    trained = [each for each in needs if not each.of_reference]
    title = f"unlearn {len(corpus.forget)} rows with {config.label}, retain set of {len(corpus.retain)}"
    of_retain = sum(each in (Pass.RETAIN, Pass.RETAIN_IDK) for each in trained)
    tokens = _tokens(config.model, corpus.forget) * (len(trained) - of_retain)
    if of_retain:
        tokens += _tokens(config.model, corpus.retain) * of_retain
    lines = [*_warnings(corpus), _training(config, title, len(corpus.forget), tokens, len(trained))]
    if missing := rows_without_alternatives(config, corpus):
        lines.append(f"  first {config.alternatives.samples} other answers to {len(missing)} questions, from the model")
    if any(each.of_reference for each in needs):
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
    models = len(config.methods) + 1 + (config.finetune is not None or config.retain_model is not None)
    return [
        *dict.fromkeys(lines),  # a warning about the data once, not for each stage
        f"evaluate {models} models with {config.evaluation.suite}",
        f"report in {storage.name(storage.local(config.runs))}",
    ]


def _warnings(corpus: "Corpus") -> list[str]:
    return [f"warning: {warning}" for warning in corpus.warnings]


def _training(config: TrainingRun, title: str, anchors: int, tokens_per_anchor: float, passes: int) -> str:
    schedule = Schedule(anchors, 1, 1, config.optim, config.seed)
    step_tokens = tokens_per_anchor * config.optim.batch_size
    memory = _memory_bytes(config.model, config.optim.micro_batch_size * passes)
    return (
        f"{title}: {schedule.steps} steps of {config.optim.batch_size} items, about {step_tokens:.0f} tokens a step, "
        f"{step_tokens * schedule.steps:.0f} in all; {memory / 2**30:.1f} GiB for weights, gradients, optimiser and "
        f"activations, over {config.cluster.workers} worker(s)"
    )


def _tokens(model: ModelSpec, rows: "tuple[Row, ...]") -> float:
    """Mean length of a text, from the first rows."""
    return fmean(len(_encoder(model).encode_row(row).input_ids) for row in rows[:SAMPLE])


@cache  # several stages have one model, and a GGUF's tokenizer takes seconds to read
def _encoder(model: ModelSpec) -> "TextEncoder":
    return text_encoder(model, load_tokenizer(model))


@cache
def _size(model: ModelSpec) -> "ModelSize":
    return model_size(model)


def _memory_bytes(model: ModelSpec, sequences: int) -> float:
    size = _size(model)
    gathered = size.parameters * COMPUTE_BYTES[model.compute_dtype]
    # A transformer block keeps about 34 bytes per token and hidden unit in 16 bits (Korthikanti et al. 2022,
    # arXiv:2205.05198, section 4, without the attention matrix).
    per_token = 34 * COMPUTE_BYTES[model.compute_dtype] / 2 * size.layers * size.hidden_size
    weights = size.trained * BYTES_PER_TRAINED + (size.parameters - size.trained) * BYTES_PER_FROZEN
    return weights + gathered + per_token * model.max_length * sequences
