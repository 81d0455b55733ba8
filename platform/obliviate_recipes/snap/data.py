"""SNAP's training rows (arXiv:2406.12329v1): negative instructions about the entity, hard positives about others.

The paper published no code. The reading that its abstract and its successor's code (Opt-Out) support: a negative
instruction is a question about the entity with replies that give nothing away; a hard positive is a question about
somebody else, as near to a negative one as can be found, with the answer that the model gives before it forgets.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from obliviate import storage
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.errors import UserError
from obliviate.models import load_tokenizer, portable, text_encoder
from obliviate.runs import Run, content_hash
from obliviate.schema import LAYOUT, GenerationSpec
from obliviate_eval.judges.similarity import SentenceEncoder
from obliviate_recipes.costs.work import Measured, Work
from obliviate_recipes.costs.work import asking as asking_work
from obliviate_recipes.events import Events
from obliviate_recipes.placement import PLACEMENT
from obliviate_recipes.snap.positives import near_misses
from obliviate_recipes.snap.questions import SENTENCE_END, Ask, guess, names, read_questions, sentences
from obliviate_recipes.snap.spec import SnapRun
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.data_files import write_data
from obliviate_recipes.subject import Subject, distinct

ASKED = {"entity", "neighbours", "questions", "replies", "positives", "generation", "engine", "seed"}


@dataclass(frozen=True)
class SnapRows(Stage):
    """The rows, as `data`."""

    kind: ClassVar = "snap"
    config: SnapRun

    @property
    def label(self) -> str:
        return self.config.entity.name

    @property
    def title(self) -> str:
        return f"questions about {self.config.entity.name}"

    def determined(self) -> Determined:
        config = self.config
        texts = {subject.name: subject.read() for subject in (config.entity, *config.neighbours)}
        settings = config.model_dump(mode="json", include=ASKED, exclude={"engine": PLACEMENT["engine"]})
        layout = config.model.model_dump(mode="json", include=LAYOUT)
        inputs = {"texts": content_hash(texts), "files": content_hash(_files(config))}
        return Determined({**settings, "layout": layout}, inputs, {"model": config.model})

    def check(self) -> None:
        """Raises UserError where a text is empty."""
        if not all(self.config.entity.read()):
            raise UserError(
                f"entity.texts: a text of {self.config.entity.name} is empty; write what is to be forgotten"
            )

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        """Raises UserError where a file can't be read, or no question is left."""
        self.check()
        return _make(self.config, run, events)

    def outline(self) -> list[str]:
        config = self.config
        texts = sum(map(len, config.entity.read()))
        sources = ", ".join(source.type for source in config.questions)
        return [
            f"ask about {config.entity.name} ({texts} characters of text) and {len(config.neighbours)} neighbours: "
            f"{sources}; replies: {config.replies.type}"
        ]

    def work(self) -> tuple[Work, ...]:
        config, corpus = self.config, self.expected
        rows = (*corpus.forget, *corpus.retain, *corpus.retain)  # the model answers what is trained on and measured
        return (Measured("ask the model", asking_work(config.model, rows, config.generation, config.engine)),)

    @cached_property
    def expected(self) -> Corpus:
        """About what comes of it, before the model is asked: as many questions, and answers as long as the texts'
        sentences."""
        config = self.config
        half = config.neighbours[: (len(config.neighbours) + 1) // 2]
        said = [each for text in config.entity.read() for each in sentences(text)] or [config.entity.name]
        forget, others = (
            [replace(row, answer=said[place % len(said)]) for place, row in enumerate(distinct(found))]
            for found in (_asked(config, [config.entity], guess), _asked(config, half, guess))
        )
        return Corpus(tuple(forget), tuple(others[: len(forget) * config.positives.per_question]), ())


def _make(config: SnapRun, run: Run, events: Events) -> dict[str, Any]:
    encoder = SentenceEncoder(config.positives.encoder, "positives.encoder")
    half = (len(config.neighbours) + 1) // 2
    with asking(config, events) as ask:
        negatives = _negatives(config, ask, events)
        extra = [] if config.positives.candidates is None else read_questions(config.positives.candidates)
        trained = _positives(config, config.neighbours[:half], extra, negatives, ask, encoder, events)
        measured = _positives(config, config.neighbours[half:], [], negatives, ask, encoder, events)
        answered = _answered([*negatives, *trained, *measured], config.generation, ask)
    forget, retain, kept = (
        [row for row in answered[start:end] if row.answer]
        for start, end in _cuts(len(negatives), len(trained), len(measured))
    )
    if mute := len(answered) - len(forget) - len(retain) - len(kept):
        events.said(f"answers: {mute} questions are left out, because the model answers nothing to them")
    if not forget or not retain:
        raise UserError(f"model: {config.model.source} answers none of the questions; give a model that follows them")
    sets = [EvaluationSet("forget", Role.FORGET, tuple(forget)), EvaluationSet("neighbor", Role.RETAIN, tuple(kept))]
    write_data(run.directory, forget, retain, sets)
    return {"forget": len(forget), "retain": len(retain), "measured": len(kept)}


@contextmanager
def asking(config: SnapRun, events: Events) -> Iterator[Ask]:
    """The model that is to forget, on an engine, for as long as the block lasts."""
    from obliviate.cluster import ensure_ray
    from obliviate.inference.pool import EnginePool
    from obliviate.inference.thinking import without_thinking

    model = portable(config.model)
    encoder = text_encoder(model, load_tokenizer(model))
    ensure_ray(config.cluster.address)
    with events.progressing("ask the model") as show:
        show_tokens = lambda done, total, tokens: show(done, total, f"{tokens} tokens")  # noqa: E731
        with EnginePool(model, config.engine, on_progress=show_tokens) as pool:

            def ask(prompts: Sequence[str], sampling: GenerationSpec) -> list[list[str]]:
                if not prompts:
                    return []
                generated = pool.generate([encoder.prompt(prompt) for prompt in prompts], sampling)
                heard = without_thinking(encoder, generated)
                return [[whole(each.text, each.finished) for each in samples] for samples in heard]

            yield ask


def whole(text: str, finished: bool) -> str:
    """What was cut off ends with its last whole sentence, where it has one: a model is not to learn to break off."""
    text = text.strip()
    *kept, last = SENTENCE_END.split(text)
    return text if finished or last.endswith((".", "!", "?")) or not kept else " ".join(kept)


def _negatives(config: SnapRun, ask: Ask, events: Events) -> list[Row]:
    """Questions about the entity, each with its replies."""
    rows = distinct(_asked(config, [config.entity], ask))
    if not rows:
        raise UserError(f"questions: none about {config.entity.name} is left; add {{type: templates}}, or more texts")
    bare = [row for row in rows if not row.refusals]
    replied = iter(config.replies.to(bare, config.entity, ask, config.seed, events))
    rows = [row if row.refusals else next(replied) for row in rows]
    events.said(f"{config.entity.name}: {len(rows)} negative instructions")
    return rows


def _positives(
    config: SnapRun,
    neighbours: Sequence[Subject],
    extra: Sequence[Row],
    negatives: Sequence[Row],
    ask: Ask,
    encoder: SentenceEncoder,
    events: Events,
) -> list[Row]:
    """The near misses among the questions about these neighbours; none may name the entity."""
    asked = distinct([*_asked(config, neighbours, ask), *extra])
    candidates = [row for row in asked if not names(f"{row.question} {row.answer}", config.entity.name)]
    if not candidates:
        raise UserError(
            f"neighbours: no question about {', '.join(each.name for each in neighbours)} is left that does not name "
            f"{config.entity.name}; give other neighbours, or add questions: {{type: templates}}"
        )
    found = near_misses(negatives, candidates, encoder, config.positives.per_question)
    row, cosine = found[0]
    events.said(
        f"{', '.join(each.name for each in neighbours)}: {len(found)} of {len(candidates)} questions are near misses, "
        f"the nearest at a cosine of {cosine:.2f}: {row.question}"
    )
    return [row for row, _ in found]


def _asked(config: SnapRun, subjects: Sequence[Subject], ask: Ask) -> list[Row]:
    return [row for source in config.questions for row in source.about(subjects, ask, config.seed)]


def _answered(rows: Sequence[Row], sampling: GenerationSpec, ask: Ask) -> list[Row]:
    """Rows without an answer get the model's own, which may be empty."""
    unanswered = [row.question for row in rows if not row.answer]
    said = iter(ask(unanswered, sampling))
    return [row if row.answer else replace(row, answer=next(said)[0]) for row in rows]


def _cuts(*lengths: int) -> Iterator[tuple[int, int]]:
    start = 0
    for length in lengths:
        yield start, start + length
        start += length


def _files(config: SnapRun) -> list[str]:
    """The content of every file that the config names, texts aside."""
    named = [getattr(source, "path", None) for source in (*config.questions, config.replies)]
    given = [path for path in (*named, config.positives.candidates) if path is not None]
    paths = [storage.fetch(storage.local(path).expanduser()) for path in given]
    return [path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "" for path in paths]
