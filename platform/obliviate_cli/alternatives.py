"""Other answers to the forget questions, sampled from the model that must forget: a stage before AltPO's training."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from obliviate import storage
from obliviate.cluster import ensure_ray
from obliviate.config import AlternativesSpec, UnlearnRun
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.inference.engine import Generation
from obliviate.models import content_of, load_tokenizer, portable, text_encoder
from obliviate.runs import Run, content_hash, write_json
from obliviate.schema import LAYOUT, EngineSpec, GenerationSpec
from obliviate_cli.measure import PLACEMENT
from obliviate_cli.progress import progress

TITLE = "sample other answers"
SAMPLES = "samples"  # the folder of what is sampled so far: a file for each finished chunk of questions


def with_alternatives(config: UnlearnRun, corpus: Corpus, console: Console) -> Corpus:
    """The corpus with alternatives in every forget row, where a term needs them; rows that bring theirs keep them.

    A sample that is empty, or the true answer itself, is no alternative. A question of which nothing else was sampled
    gets its true answer for one: preferring it to itself has no gradient.
    """
    missing = rows_without_alternatives(config, corpus)
    if not missing:
        return corpus
    sampled = dict(zip(missing, _sample(config, [corpus.forget[i] for i in missing], console), strict=True))
    rows = list(corpus.forget)
    for index, answers in sampled.items():
        row = rows[index]
        others = tuple(answer for answer in answers if answer.strip() and replace(row, answer=answer).key != row.key)
        rows[index] = replace(row, alternatives=others or (row.answer,))
    if same := sum(rows[index].alternatives == (rows[index].answer,) for index in missing):
        console.print(
            f"warning: {same} of {len(missing)} questions: every sample is the true answer or empty, so there is "
            "nothing to prefer to it; raise alternatives.samples or alternatives.temperature",
            style="yellow",
        )
    return replace(corpus, forget=tuple(rows))


def rows_without_alternatives(config: UnlearnRun, corpus: Corpus) -> list[int]:
    """The forget rows to sample for. Raises UserError for a plain text among them, which asks nothing."""
    if not config.needs_alternatives:
        return []
    missing = [index for index, row in enumerate(corpus.forget) if not row.alternatives]
    for index in missing:
        if not corpus.forget[index].question:
            raise UserError(
                f"method: {config.label}: forget row {index + 1} is a plain text, to which no other answer can be "
                "sampled; give it a question, or a list of other texts under the key alternatives"
            )
    return missing


def _sample(config: UnlearnRun, rows: Sequence[Row], console: Console) -> list[tuple[str, ...]]:
    """Of each row, the sampled answers. A run of its own: what is sampled already is read, the rest is sampled."""
    spec = config.alternatives.model_copy(update={"engine": config.alternatives.engine or EngineSpec()})
    assert spec.engine is not None
    model = portable(config.model)
    layout = model.model_dump(mode="json", include=LAYOUT)
    settings = {"alternatives": spec.model_dump(mode="json", exclude=PLACEMENT), "layout": layout, "seed": config.seed}
    inputs = {
        "model": content_of(config.model),
        "questions": content_hash([row.asked for row in rows]),
    }
    run = Run.open(Path(config.runs), "alternatives", config.name or config.data.type, settings, inputs)
    with run.locked(wait=True):  # several trainings may ask for them at once
        found = _read(run)
        left = [index for index in range(len(rows)) if index not in found]
        if left:
            _generate(config, spec, [rows[index] for index in left], left, run, console)
            run.finish(questions=len(rows))
            found = _read(run)
        else:
            console.print(f"{TITLE}: done already, in {storage.name(run.directory)}")
    return [found[index] for index in range(len(rows))]


def _generate(
    config: UnlearnRun, spec: AlternativesSpec, rows: Sequence[Row], places: Sequence[int], run: Run, console: Console
) -> None:
    """Into the run's folder, as they come, each under its row's place."""
    from obliviate.inference.pool import EnginePool
    from obliviate.inference.thinking import without_thinking

    assert spec.engine is not None
    model = portable(config.model)
    sampling = GenerationSpec(
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        samples=spec.samples,
        seed=config.seed,
    )

    def keep(chunk: Sequence[int], generations: Sequence[list[Generation]]) -> None:
        heard = without_thinking(encoder, generations)
        said = {places[at]: [each.text for each in group] for at, group in zip(chunk, heard, strict=True)}
        write_json(run.directory / SAMPLES / f"{min(said):06d}.json", said)

    encoder = text_encoder(model, load_tokenizer(model))
    ensure_ray(config.cluster.address)
    with progress(console, TITLE) as show:
        show_tokens = lambda done, total, tokens: show(done, total, f"{tokens} tokens")  # noqa: E731
        with EnginePool(model, spec.engine, on_progress=show_tokens) as pool:
            pool.generate([encoder.prompt(*row.asked) for row in rows], sampling, on_chunk=keep)


def _read(run: Run) -> dict[int, tuple[str, ...]]:
    """Row -> its samples, of every chunk that is on disk."""
    files = (run.directory / SAMPLES).glob("*.json")
    chunks = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return {int(row): tuple(answers) for chunk in chunks for row, answers in chunk.items()}
