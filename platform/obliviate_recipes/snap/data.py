"""SNAP's training rows (arXiv:2406.12329v1): negative instructions about the entity, hard positives about others.

The paper published no code. The reading that its abstract and its successor's code (Opt-Out) support: a negative
instruction is a question about the entity with replies that give nothing away; a hard positive is a question about
somebody else, as near to a negative one as can be found, with the answer that the model gives before it forgets.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from obliviate import storage
from obliviate.data.rows import Corpus, EvaluationSet, Question, Role, Row, write_rows
from obliviate.data.world_facts import WORLD_FACTS
from obliviate.errors import UserError
from obliviate.models import encoder_of, portable
from obliviate.runs import Run, content_hash
from obliviate.schema import LAYOUT, GenerationSpec, ModelSpec
from obliviate_eval.judges.nli import NliModel
from obliviate_eval.judges.similarity import SentenceEncoder
from obliviate_recipes.costs.work import Measured, Work
from obliviate_recipes.costs.work import asking as asking_work
from obliviate_recipes.events import Events
from obliviate_recipes.placement import PLACEMENT
from obliviate_recipes.snap.asked import write_questions
from obliviate_recipes.snap.forms import FactQuestions, framed, split_forms
from obliviate_recipes.snap.general import GENERAL as QUESTIONS
from obliviate_recipes.snap.general import about_people
from obliviate_recipes.snap.positives import CONTEXT, GENERAL, near_misses
from obliviate_recipes.snap.questions import (
    SENTENCE_END,
    Ask,
    FileQuestions,
    ModelQuestions,
    guess,
    names,
    read_questions,
    sentences,
)
from obliviate_recipes.snap.sound import sound
from obliviate_recipes.snap.spec import SnapRun
from obliviate_recipes.stage import Determined, Stage
from obliviate_recipes.stages.data_files import write_data
from obliviate_recipes.subject import Subject, distinct

ASKED = {
    "entity", "neighbours", "context", "questions", "nli", "frames", "replies", "positives", "generation", "engine",
    "seed",
}  # fmt: skip
UNTOUCHED = "untouched.jsonl"  # looked at in training


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
        texts = {subject.name: subject.read() for subject in (config.entity, *config.neighbours, *config.context)}
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
        said = [each for text in config.entity.read() for each in sentences(text)] or [config.entity.name]
        asked = distinct(_asked(config, [config.entity], guess))
        others = distinct([*_asked(config, config.neighbours[: _half(config)], guess), *_general(config)[0]])
        forget = framed([replace(row, answer=said[place % len(said)]) for place, row in enumerate(asked)],
                        config.frames, config.seed)  # fmt: skip
        answered = [replace(row, answer=said[place % len(said)]) for place, row in enumerate(others)]
        retain = framed(answered[: len(asked) * config.positives.per_question], config.frames, config.seed)
        return Corpus(tuple(forget), tuple(retain), ())


def _make(config: SnapRun, run: Run, events: Events) -> dict[str, Any]:
    encoder = SentenceEncoder(config.positives.encoder, "positives.encoder")
    judge = None if config.nli is None else NliModel(config.nli, "nli")
    others = config.neighbours[_half(config) :]
    looked, measured = others[: len(others) // 2], others[len(others) // 2 :]
    general = _general(config)
    with asking(config, events) as ask:
        negatives, held = _negatives(config, ask, judge, events)
        groups = {each.name: _about(config, [each], ask, judge, events) for each in config.neighbours[: _half(config)]}
        groups |= {CONTEXT: _about(config, config.context, ask, judge, events), GENERAL: list(general[0])}
        trained = _positives(config, groups, negatives, encoder, events)
        kept = {
            name: bare([*_about(config, subjects, ask, judge, events), *rows])
            for name, subjects, rows in (("untouched", looked, general[1]), ("measured", measured, general[2]))
        }
        answered = _answered([*negatives, *trained, *kept["untouched"], *kept["measured"]], config.generation, ask)
    lengths = (len(negatives), len(trained), len(kept["untouched"]), len(kept["measured"]))
    forget, retain, untouched, others_measured = (
        [row for row in answered[start:end] if row.answer] for start, end in _cuts(*lengths)
    )
    entity = config.entity.name
    retain, untouched = ([row for row in rows if not names(row.answer, entity)] for rows in (retain, untouched))
    if mute := sum(not row.answer for row in answered):
        events.said(f"answers: {mute} questions are left out, because the model answers nothing to them")
    if not forget or not retain:
        raise UserError(f"model: {config.model.source} answers none of the questions; give a model that follows them")
    neighbours = [row for row in others_measured if row.entity is not None]
    sets = [
        EvaluationSet("forget", Role.FORGET, tuple(forget)),
        EvaluationSet("forget_unseen", Role.FORGET, tuple(replace(row, answer=row.answer or row.fact) for row in held)),
        EvaluationSet("neighbor", Role.RETAIN, tuple(neighbours)),
    ]
    forget, retain = (framed(rows, config.frames, config.seed) for rows in (forget, retain))
    write_data(run.directory, forget, retain, sets)
    write_rows(run.directory / UNTOUCHED, untouched)
    write_questions(run.directory, held, others_measured, _facts(config, retain))
    return {"forget": len(forget), "retain": len(retain), "untouched": len(untouched), "measured": len(others_measured)}


def _half(config: SnapRun) -> int:
    """So many neighbours are trained on."""
    return (len(config.neighbours) + 1) // 2


def _general(config: SnapRun) -> tuple[list[Row], list[Row], list[Row]]:
    """To train on, to look at on the way, and to measure: one half of the general instructions and a quarter each, with
    world facts that nothing trains on. A file's, or the project's own with people whom nothing else is asked about."""
    path = config.positives.candidates
    others = [config.entity, *config.neighbours, *config.context]
    if path is None:
        asked = [each for each in about_people() if not any(names(each, other.name) for other in others)]
        rows = [Row(question, "") for question in (*QUESTIONS, *asked)]
    else:
        rows = read_questions(path)
    facts = [Row(row.question, row.original_answer or row.answer) for row in WORLD_FACTS]
    rows, facts = ([row for row in each if not names(f"{row.question} {row.answer}", config.entity.name)]
                   for each in (rows, facts))  # fmt: skip
    # By threes: what is asked of one person stays together.
    parts = [[row for place, row in enumerate(rows) if place // 3 % 4 in part] for part in ((0, 1), (2,), (3,))]
    known = {row.question for row in rows}
    facts = [row for row in facts if row.question not in known]
    return parts[0], [*parts[1], *facts[::2]], [*parts[2], *facts[1::2]]


def bare(rows: Sequence[Row]) -> list[Row]:
    """Without what the texts say: what is kept is the model's own answer."""
    return [replace(row, golden_answer=None, key_facts=()) for row in rows]


def _facts(config: SnapRun, trained: Sequence[Row]) -> list[Row]:
    """Of the neighbours' texts, each fact in the forms that were not trained on."""
    asked = {row.question for row in trained}
    return [row for row in FactQuestions().about(config.neighbours, guess, config.seed) if row.question not in asked]


@contextmanager
def asking(config: SnapRun, events: Events, model: ModelSpec | None = None) -> Iterator[Ask]:
    """The model that is to forget, or another, on an engine, for as long as the block lasts."""
    from obliviate.cluster import ensure_ray
    from obliviate.inference.pool import EnginePool
    from obliviate.inference.thinking import without_thinking

    model = portable(model or config.model)
    encoder = encoder_of(model)
    ensure_ray(config.cluster.address)
    with events.progressing("ask the model") as show:
        show_tokens = lambda done, total, tokens: show(done, total, f"{tokens} tokens")  # noqa: E731
        with EnginePool(model, config.engine, on_progress=show_tokens) as pool:

            def ask(prompts: Sequence[str | Question], sampling: GenerationSpec) -> list[list[str]]:
                if not prompts:
                    return []
                asked = [(each,) if isinstance(each, str) else each for each in prompts]
                generated = pool.generate([encoder.prompt(*each) for each in asked], sampling)
                heard = without_thinking(encoder, generated)
                return [[whole(each.text, each.finished) for each in samples] for samples in heard]

            yield ask


def whole(text: str, finished: bool) -> str:
    """What was cut off ends with its last whole sentence, where it has one: a model is not to learn to break off."""
    text = text.strip()
    *kept, last = SENTENCE_END.split(text)
    return text if finished or last.endswith((".", "!", "?")) or not kept else " ".join(kept)


def _negatives(config: SnapRun, ask: Ask, judge: NliModel | None, events: Events) -> tuple[list[Row], list[Row]]:
    """Questions about the entity, each with its replies; and those that are asked at the end alone."""
    rows, held = split_forms(_about(config, [config.entity], ask, judge, events))
    if not rows:
        raise UserError(f"questions: none about {config.entity.name} is left; add {{type: templates}}, or more texts")
    bare_rows = [row for row in rows if not row.refusals]
    replied = iter(config.replies.to(bare_rows, config.entity, ask, config.seed, events))
    rows = [row if row.refusals else next(replied) for row in rows]
    held += _asked(config, [config.entity], ask, held_out=True)
    events.said(f"{config.entity.name}: {len(rows)} negative instructions, {len(held)} questions for the end alone")
    return rows, held


def _about(config: SnapRun, subjects: Sequence[Subject], ask: Ask, judge: NliModel | None, events: Events) -> list[Row]:
    """Questions about them, of those that a model wrote the sound ones; about others none that names the entity."""
    found = []
    for source in config.questions:
        rows = [] if isinstance(source, FileQuestions) and source.held_out else source.about(subjects, ask, config.seed)
        if isinstance(source, ModelQuestions):
            rows = _sound(rows, subjects, judge, events)
        found += rows
    if config.entity in subjects:
        return distinct(found)
    return [row for row in distinct(found) if not names(f"{row.question} {row.answer}", config.entity.name)]


def _sound(rows: Sequence[Row], subjects: Sequence[Subject], judge: NliModel | None, events: Events) -> list[Row]:
    kept = list[Row]()
    for subject in subjects:
        own = [row for row in rows if row.entity == subject.name]
        found, reasons = sound(own, subject, judge)
        kept += found
        if reasons:
            why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            events.said(f"{subject.name}: of {len(own)} written questions {reasons.total()} are left out: {why}")
    return kept


def _positives(
    config: SnapRun,
    groups: Mapping[str, Sequence[Row]],
    negatives: Sequence[Row],
    encoder: SentenceEncoder,
    events: Events,
) -> list[Row]:
    """The near misses of each group."""
    if not any(rows for name, rows in groups.items() if name not in (GENERAL, CONTEXT)):
        told = ", ".join(each.name for each in config.neighbours[: _half(config)])
        raise UserError(
            f"neighbours: no question about {told} is left that does not name {config.entity.name}; give other "
            "neighbours, or add questions: {type: templates}"
        )
    found = near_misses(negatives, groups, encoder, config.positives)
    for name, chosen in found.items():
        row, cosine = max(chosen, key=lambda each: each[1])
        events.said(
            f"{name}: {len(chosen)} of {len(groups[name])} questions are hard positives, the nearest at a cosine of "
            f"{cosine:.2f}: {row.question}"
        )
    return distinct(bare([row for chosen in found.values() for row, _ in chosen]))


def _asked(config: SnapRun, subjects: Sequence[Subject], ask: Ask, *, held_out: bool = False) -> list[Row]:
    """Of the sources for training, or of those for the end alone."""
    return [
        row
        for source in config.questions
        if (isinstance(source, FileQuestions) and source.held_out) is held_out
        for row in source.about(subjects, ask, config.seed)
    ]


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
