"""Forget-set filtering: rows whose removal would change nothing are not trained on (the idea of FUNU,
arXiv:2501.16614, whose models classify images).

Here a row is unnecessary where a retain row is near to it (cosine of sentence embeddings) and the model knows its
answer hardly better than a reference that never saw it (log-probability per token). What was filtered still holds the
subject's data: it is off unless asked for, and every row is reported with its figures.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from obliviate import storage
from obliviate.config import ForgetFilterSpec, UnlearnRun
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.models import content_of, load_tokenizer, portable, text_encoder
from obliviate.runs import Run, write_whole
from obliviate.schema import LAYOUT, EngineSpec, ModelSpec
from obliviate_cli.judged import JUDGED, Judged, Scored, judge, line
from obliviate_cli.measure import PLACEMENT
from obliviate_cli.nearness import nearest_with_cosine, sentence_encoder
from obliviate_cli.progress import progress

SHOWN = 20  # filtered rows that the terminal lists


def with_filter(config: UnlearnRun, corpus: Corpus, console: Console) -> tuple[Corpus, Path | None]:
    """The corpus without the unnecessary forget rows, and the file that reports all of them; None where none is asked
    for. The evaluation sets stay whole.

    Raises UserError where there is no retain set, and where nothing would be left to forget.
    """
    if config.forget_filter is None:
        return corpus, None
    if not corpus.retain:
        raise UserError("forget_filter: the data has no retain set to compare with; give data.retain, or remove it")
    path = _judged(config, config.forget_filter, corpus, console)
    judged = [Judged(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = tuple(row for row, each in zip(corpus.forget, judged, strict=True) if not each.filtered)
    _report([each for each in judged if each.filtered], len(judged), path, console)
    if not kept:
        raise UserError(
            f"forget_filter: all {len(judged)} forget rows are filtered; lower gap, raise similarity, or remove it"
        )
    return replace(corpus, forget=kept), path


def _judged(config: UnlearnRun, spec: ForgetFilterSpec, corpus: Corpus, console: Console) -> Path:
    """The file with every row's verdict. A run of its own, made once."""
    settings = {
        **spec.model_dump(mode="json", exclude=PLACEMENT),
        "encoder": config.encoder,
        "layout": config.model.model_dump(mode="json", include=LAYOUT | {"max_length"}),
    }
    inputs = {"data": corpus.training_content, "model": content_of(config.model)}
    inputs["reference"] = content_of(spec.reference)
    run = Run.open(Path(config.runs), "filter", config.name or config.data.type, settings, inputs)
    path = run.directory / JUDGED
    with run.locked(wait=True):  # several trainings may ask for it at once
        if not run.done:
            _judge_all(config, spec, corpus, run, console)
    return path


def _judge_all(config: UnlearnRun, spec: ForgetFilterSpec, corpus: Corpus, run: Run, console: Console) -> None:
    near = nearest_with_cosine(sentence_encoder(config.encoder), corpus.forget, corpus.retain)
    model, reference = (
        _scored(each, spec.engine or EngineSpec(), corpus.forget, config.cluster.address, title, console)
        for each, title in ((config.model, "score the forget set"), (spec.reference, "score it with the reference"))
    )
    judged = judge(spec, corpus.forget, near, model, reference)
    lines = "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in judged)
    write_whole(run.directory / JUDGED, lambda path: path.write_text(lines, encoding="utf-8", newline="\n"))
    run.finish(rows=len(judged), filtered=sum(each.filtered for each in judged))


def _scored(
    model: ModelSpec, engine: EngineSpec, rows: Sequence[Row], address: str | None, title: str, console: Console
) -> list[Scored]:
    """Each row's answer under the model."""
    from obliviate.cluster import ensure_ray
    from obliviate.inference.pool import EnginePool

    model = portable(model)
    encoder = text_encoder(model, load_tokenizer(model))
    ensure_ray(address)
    with progress(console, title) as show:
        show_tokens = lambda done, total, tokens: show(done, total, f"{tokens} tokens")  # noqa: E731
        with EnginePool(model, engine, on_progress=show_tokens) as pool:
            scored = pool.score([encoder.encode_row(row) for row in rows])
    return [(len(text.logp), sum(text.logp) / len(text.logp)) for text in scored]


def _report(filtered: Sequence[Judged], rows: int, path: Path, console: Console) -> None:
    where = storage.name(path)
    console.print(f"forget filter: {len(filtered)} of {rows} forget rows are not trained on; every row: {where}")
    for each in filtered[:SHOWN]:
        console.print(f"  {line(asdict(each))}")
    if len(filtered) > SHOWN:
        console.print(f"  and {len(filtered) - SHOWN} more")
