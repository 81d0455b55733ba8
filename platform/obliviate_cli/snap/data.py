"""SNAP's training rows (arXiv:2406.12329v1): negative instructions about the entity, hard positives about others.

The paper published no code. The reading that its abstract and its successor's code (Opt-Out) support: a negative
instruction is a question about the entity with replies that give nothing away; a hard positive is a question about
somebody else, as near to a negative one as can be found, with the answer that the model gives before it forgets.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from obliviate import storage
from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.errors import UserError
from obliviate.models import content_of, load_tokenizer, portable, text_encoder
from obliviate.runs import Run, content_hash
from obliviate.schema import LAYOUT, GenerationSpec
from obliviate_cli.data_files import DATA, write_data
from obliviate_cli.entity import Subject, distinct
from obliviate_cli.measure import PLACEMENT
from obliviate_cli.progress import progress
from obliviate_cli.snap.positives import near_misses
from obliviate_cli.snap.questions import SENTENCE_END, Ask, names, read_questions
from obliviate_cli.snap.spec import SnapRun
from obliviate_eval.judges.similarity import SentenceEncoder

ASKED = {"entity", "neighbours", "questions", "replies", "positives", "generation", "engine", "seed"}


def make_data(config: SnapRun, console: Console) -> Path:
    """The file that holds the rows as `data`. A run of its own, made once.

    Raises UserError where a text is empty, a file can't be read, or no question is left.
    """
    texts = {subject.name: subject.read() for subject in (config.entity, *config.neighbours)}
    if not all(texts[config.entity.name]):
        raise UserError(f"entity.texts: a text of {config.entity.name} is empty; write what is to be forgotten")
    settings = config.model_dump(mode="json", include=ASKED, exclude=PLACEMENT)
    layout = config.model.model_dump(mode="json", include=LAYOUT)
    inputs = {"model": content_of(config.model), "texts": content_hash(texts), "files": content_hash(_files(config))}
    run = Run.open(Path(config.runs), "snap", config.entity.name, {**settings, "layout": layout}, inputs)
    if run.done:
        console.print(f"questions about {config.entity.name}: made already, in {storage.name(run.directory)}")
        return run.directory / DATA
    with run.locked():
        return _make(config, run, console)


def _make(config: SnapRun, run: Run, console: Console) -> Path:
    encoder = SentenceEncoder(config.positives.encoder, "positives.encoder")
    half = (len(config.neighbours) + 1) // 2
    with asking(config, console) as ask:
        negatives = _negatives(config, ask, console)
        extra = [] if config.positives.candidates is None else read_questions(config.positives.candidates)
        trained = _positives(config, config.neighbours[:half], extra, negatives, ask, encoder, console)
        measured = _positives(config, config.neighbours[half:], [], negatives, ask, encoder, console)
        answered = _answered([*negatives, *trained, *measured], config.generation, ask)
    forget, retain, kept = (
        [row for row in answered[start:end] if row.answer]
        for start, end in _cuts(len(negatives), len(trained), len(measured))
    )
    if mute := len(answered) - len(forget) - len(retain) - len(kept):
        console.print(f"answers: {mute} questions are left out, because the model answers nothing to them")
    if not forget or not retain:
        raise UserError(f"model: {config.model.source} answers none of the questions; give a model that follows them")
    sets = [EvaluationSet("forget", Role.FORGET, tuple(forget)), EvaluationSet("neighbor", Role.RETAIN, tuple(kept))]
    path = write_data(run.directory, forget, retain, sets, console)
    run.finish(forget=len(forget), retain=len(retain), measured=len(kept))
    return path


@contextmanager
def asking(config: SnapRun, console: Console) -> Iterator[Ask]:
    """The model that is to forget, on an engine, for as long as the block lasts."""
    from obliviate.cluster import ensure_ray
    from obliviate.inference.pool import EnginePool
    from obliviate.inference.thinking import without_thinking

    model = portable(config.model)
    encoder = text_encoder(model, load_tokenizer(model))
    ensure_ray(config.cluster.address)
    with progress(console, "ask the model") as show:
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


def _negatives(config: SnapRun, ask: Ask, console: Console) -> list[Row]:
    """Questions about the entity, each with its replies."""
    rows = distinct(_asked(config, [config.entity], ask))
    if not rows:
        raise UserError(f"questions: none about {config.entity.name} is left; add {{type: templates}}, or more texts")
    bare = [row for row in rows if not row.refusals]
    replied = iter(config.replies.to(bare, config.entity, ask, config.seed, console))
    rows = [row if row.refusals else next(replied) for row in rows]
    console.print(f"{config.entity.name}: {len(rows)} negative instructions")
    return rows


def _positives(
    config: SnapRun,
    neighbours: Sequence[Subject],
    extra: Sequence[Row],
    negatives: Sequence[Row],
    ask: Ask,
    encoder: SentenceEncoder,
    console: Console,
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
    console.print(
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
