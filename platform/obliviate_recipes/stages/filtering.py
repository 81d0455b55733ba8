"""Forget-set filtering: rows whose removal would change nothing are not trained on (the idea of FUNU,
arXiv:2501.16614, whose models classify images).

Here a row is unnecessary where a retain row is near to it (cosine of sentence embeddings) and the model knows its
answer hardly better than a reference that never saw it (log-probability per token). What was filtered still holds the
subject's data: it is off unless asked for, and every row is reported with its figures.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar

from obliviate import storage
from obliviate.config import UnlearnRun
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.models import encoder_of, portable
from obliviate.options import ForgetFilterSpec
from obliviate.runs import Run, write_whole
from obliviate.schema import LAYOUT, EngineSpec, ModelSpec
from obliviate_recipes.costs.work import Measured, Work, scoring
from obliviate_recipes.events import Events
from obliviate_recipes.placement import PLACEMENT
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.judged import JUDGED, Judged, Scored, judge, line
from obliviate_recipes.stages.nearness import nearest_with_cosine, sentence_encoder

SHOWN = 20  # filtered rows that the terminal lists


@dataclass(frozen=True)
class Filter(Stage):
    """Judges every forget row."""

    kind: ClassVar = "filter"
    waits: ClassVar = True  # several trainings may ask for it at once

    config: UnlearnRun
    corpus: Corpus
    before: tuple[Stage, ...] = ()

    @property
    def spec(self) -> ForgetFilterSpec:
        assert self.config.forget_filter is not None
        return self.config.forget_filter

    @cached_property
    def reference(self) -> ModelSpec:
        """Laid out as the model is: an answer is compared with itself."""
        layout = {key: getattr(self.config.model, key) for key in (*LAYOUT, "max_length")}
        return self.spec.reference.model_copy(update=layout)

    @property
    def engine(self) -> EngineSpec:
        return self.spec.engine or EngineSpec()

    @property
    def label(self) -> str:
        return self.config.name or self.config.data.type

    @property
    def title(self) -> str:
        return f"score the forget set, also with {self.spec.reference.source}: which rows need no unlearning"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return self.before

    def determined(self) -> Determined:
        settings = {
            **self.spec.model_dump(mode="json", exclude={"engine": PLACEMENT["engine"]}),
            "encoder": self.config.encoder,
            "layout": self.config.model.model_dump(mode="json", include=LAYOUT | {"max_length"}),
        }
        models = {"model": self.config.model, "reference": self.reference}
        return Determined(settings, {"data": self.corpus.training_content}, models)

    def check(self) -> None:
        if not self.corpus.retain:
            raise UserError("forget_filter: the data has no retain set to compare with; give data.retain, or remove it")
        sentence_encoder(self.config.encoder)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        rows = self.corpus.forget
        near = nearest_with_cosine(sentence_encoder(self.config.encoder), rows, self.corpus.retain)
        model, reference = (
            _scored(each, self.engine, rows, self.config.cluster.address, title, events)
            for each, title in (
                (self.config.model, "score the forget set"),
                (self.reference, "score it with the reference"),
            )
        )
        judged = judge(self.spec, rows, near, model, reference)
        lines = "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in judged)
        write_whole(run.directory / JUDGED, lambda path: path.write_text(lines, encoding="utf-8", newline="\n"))
        return {"rows": len(judged), "filtered": sum(each.filtered for each in judged)}

    def work(self) -> tuple[Work, ...]:
        models = (self.at_hand(self.config.model), self.at_hand(self.reference))
        title = "score the forget set"
        return tuple(Measured(title, scoring(each, self.corpus.forget, self.engine)) for each in models)

    def applied(self, corpus: Corpus, events: Events) -> Corpus:
        """Without the unnecessary forget rows. The evaluation sets stay whole.

        Raises UserError where nothing would be left to forget.
        """
        _report([each for each in self.judged if each.filtered], len(self.judged), self.run.directory / JUDGED, events)
        if not any(self.kept):
            raise UserError(
                f"forget_filter: all {len(self.judged)} forget rows are filtered; lower gap, raise similarity, or "
                "remove it"
            )
        return replace(corpus, forget=tuple(compress(corpus.forget, self.kept)))

    @cached_property
    def judged(self) -> list[Judged]:
        """Of every forget row, once the stage is made."""
        text = (self.run.directory / JUDGED).read_text(encoding="utf-8")
        return [Judged(**json.loads(line)) for line in text.splitlines()]

    @property
    def kept(self) -> list[bool]:
        """Whether it is trained on."""
        return [not each.filtered for each in self.judged]


def _scored(
    model: ModelSpec, engine: EngineSpec, rows: Sequence[Row], address: str | None, title: str, events: Events
) -> list[Scored]:
    """Each row's answer under the model."""
    from obliviate.cluster import ensure_ray
    from obliviate.inference.pool import EnginePool

    model = portable(model)
    encoder = encoder_of(model)
    ensure_ray(address)
    with events.progressing(title) as show:
        show_tokens = lambda done, total, tokens: show(done, total, f"{tokens} tokens")  # noqa: E731
        with EnginePool(model, engine, on_progress=show_tokens) as pool:
            scored = pool.score([encoder.encode_row(row) for row in rows])
    return [(len(text.logp), sum(text.logp) / len(text.logp)) for text in scored]


def _report(filtered: Sequence[Judged], rows: int, path: Path, events: Events) -> None:
    where = storage.name(path)
    events.said(f"forget filter: {len(filtered)} of {rows} forget rows are not trained on; every row: {where}")
    for each in filtered[:SHOWN]:
        events.said(f"  {line(asdict(each))}")
    if len(filtered) > SHOWN:
        events.said(f"  and {len(filtered) - SHOWN} more")
