"""Other answers to the forget questions, sampled from the model that must forget: what AltPO trains on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from obliviate.config import UnlearnRun
from obliviate.data.rows import Corpus
from obliviate.errors import UserError
from obliviate.inference.engine import Generation
from obliviate.models import encoder_of, portable
from obliviate.options import AlternativesSpec
from obliviate.runs import Run, content_hash, read_part, write_part
from obliviate.schema import LAYOUT, EngineSpec, GenerationSpec
from obliviate_recipes.costs.work import Measured, Work, asking
from obliviate_recipes.events import Events
from obliviate_recipes.placement import PLACEMENT
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.filtering import Filter

SAMPLES = "samples"  # the folder of what is sampled so far: a file for each finished chunk of questions


@dataclass(frozen=True)
class Alternatives(Stage):
    """Samples them, for each forget row that brings none; what is sampled already is read."""

    kind: ClassVar = "alternatives"
    waits: ClassVar = True  # several trainings may ask for them at once

    config: UnlearnRun
    corpus: Corpus
    before: tuple[Stage, ...] = ()
    filter: Filter | None = None

    @property
    def engine(self) -> EngineSpec:
        return self.config.alternatives.engine or EngineSpec()

    @property
    def spec(self) -> AlternativesSpec:
        return self.config.alternatives.model_copy(update={"engine": self.engine})

    @property
    def sampling(self) -> GenerationSpec:
        keys = ("max_new_tokens", "temperature", "top_p", "samples")
        return GenerationSpec(**{key: getattr(self.spec, key) for key in keys}, seed=self.config.seed)

    @cached_property
    def places(self) -> list[int]:
        """Of the forget rows that are sampled for."""
        return missing_alternatives(self.config, self.corpus)

    @property
    def label(self) -> str:
        return self.config.name or self.config.data.type

    @property
    def title(self) -> str:
        return f"sample {self.spec.samples} other answers to {len(self.places)} questions"

    @property
    def needs(self) -> tuple[Stage, ...]:
        return self.before if self.filter is None else (*self.before, self.filter)

    def determined(self) -> Determined:
        layout = self.config.model.model_dump(mode="json", include=LAYOUT)
        sampling = self.spec.model_dump(mode="json", exclude={"engine": PLACEMENT["engine"]})
        settings = {"alternatives": sampling, "layout": layout, "seed": self.config.seed}
        asked = [self.corpus.forget[place].asked for place in self.places]
        filtered = {} if self.filter is None else {"filter": self.filter.run.content}
        return Determined(settings, {"questions": content_hash(asked), **filtered}, {"model": self.config.model})

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        places = self.places if self.filter is None else [place for place in self.places if self.filter.kept[place]]
        found = self._read()
        if left := [place for place in places if place not in found]:
            self._sample(left, run, events)
        return {"questions": len(places)}

    def work(self) -> tuple[Work, ...]:
        rows, model = [self.corpus.forget[place] for place in self.places], self.at_hand(self.config.model)
        return (Measured("sample other answers", asking(model, rows, self.sampling, self.engine)),)

    def applied(self, corpus: Corpus, events: Events) -> Corpus:
        """With alternatives in every forget row; rows that bring theirs keep them. `corpus`: a filter's, it may be.

        A sample that is empty, or the true answer itself, is no alternative. A question of which nothing else was
        sampled gets its true answer for one: preferring it to itself has no gradient.
        """
        sampled = {self.corpus.forget[place].key: answers for place, answers in self._read().items()}
        rows, bare = [], 0
        for row in corpus.forget:
            answers = () if row.alternatives else sampled[row.key]
            others = [answer for answer in answers if answer.strip() and replace(row, answer=answer).key != row.key]
            bare += bool(answers) and not others
            rows.append(row if row.alternatives else replace(row, alternatives=tuple(others) or (row.answer,)))
        if bare:
            events.warned(
                f"{bare} of {len(self.places)} questions: every sample is the true answer or empty, so there is "
                "nothing to prefer to it; raise alternatives.samples or alternatives.temperature"
            )
        return replace(corpus, forget=tuple(rows))

    def _sample(self, places: Sequence[int], run: Run, events: Events) -> None:
        """Into the run's folder, as they come, each under its row's place."""
        from obliviate.cluster import ensure_ray
        from obliviate.inference.pool import EnginePool
        from obliviate.inference.thinking import without_thinking

        model = portable(self.config.model)

        def keep(chunk: Sequence[int], generations: Sequence[list[Generation]]) -> None:
            heard = without_thinking(encoder, generations)
            said = {str(places[at]): [each.text for each in group] for at, group in zip(chunk, heard, strict=True)}
            write_part(run.directory / SAMPLES / f"{min(map(int, said)):06d}.json", said)

        encoder = encoder_of(model)
        ensure_ray(self.config.cluster.address)
        prompts = [encoder.prompt(*self.corpus.forget[place].asked) for place in places]
        with events.progressing("sample other answers") as show:
            show_tokens = lambda done, total, tokens: show(done, total, f"{tokens} tokens")  # noqa: E731
            with EnginePool(model, self.engine, on_progress=show_tokens) as pool:
                pool.generate(prompts, self.sampling, on_chunk=keep)

    def _read(self) -> dict[int, tuple[str, ...]]:
        """Row -> its samples, of every chunk that is on disk."""
        files = (self.run.directory / SAMPLES).glob("*.json")
        chunks = [read_part(path) or {} for path in files]
        return {int(row): tuple(answers) for chunk in chunks for row, answers in chunk.items()}


def missing_alternatives(config: UnlearnRun, corpus: Corpus) -> list[int]:
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
