"""From evaluation sets to records: every distinct text is generated for, or scored, once."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.data.text import TextEncoder
from obliviate.inference.engine import Engine, Generation, ScoredText
from obliviate.schema import GenerationSpec
from obliviate_eval.metrics.base import WITH_OPTIONS
from obliviate_eval.records import Probe, Record, ScoredAnswer

Progress = Callable[[str, int, int], None]  # (what is being done, how many are done, of how many)
Question = str
Answer = str


def collect(
    engine: Engine,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    needs: AbstractSet[Probe],
    generation: GenerationSpec,
    on_progress: Progress,
) -> list[Record]:
    """One record a row, in the sets' order, without judgements."""
    scored = _score(engine, text_encoder, sets, needs, on_progress)
    generated = _generate(engine, text_encoder, sets, generation, on_progress) if Probe.GENERATION in needs else {}
    return [
        _record(each, index, row, needs, scored, generated.get(row.question))
        for each in sets
        for index, row in enumerate(each.rows)
    ]


def answers_of(row: Row, role: Role) -> dict[Probe, tuple[Answer, ...]]:
    """The answers to be teacher-forced. Real authors and world facts: the short answer stands for its paraphrase."""
    paraphrased = row.answer if role in WITH_OPTIONS else row.paraphrased_answer
    return {
        Probe.ANSWER: (row.answer,),
        Probe.PARAPHRASED: () if paraphrased is None else (paraphrased,),
        Probe.PERTURBED: row.perturbed_answers,
    }


def _score(
    engine: Engine,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    needs: AbstractSet[Probe],
    on_progress: Progress,
) -> dict[tuple[Question, Answer], ScoredText]:
    wanted = dict.fromkeys(
        (row.question, answer)
        for each in sets
        for row in each.rows
        for probe, answers in answers_of(row, each.role).items()
        if probe in needs
        for answer in answers
    )
    if not wanted:
        return {}
    on_progress("score", 0, len(wanted))
    scored = engine.score([text_encoder.encode(question, answer) for question, answer in wanted])
    on_progress("score", len(wanted), len(wanted))
    return dict(zip(wanted, scored, strict=True))


def _generate(
    engine: Engine,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    sampling: GenerationSpec,
    on_progress: Progress,
) -> dict[Question, Generation]:
    # A plain text has no question: its probability is measured, but there is nothing to answer.
    wanted = dict.fromkeys(row.question for each in sets for row in each.rows if row.question)
    if not wanted:
        return {}
    on_progress("generate", 0, len(wanted))
    generated = engine.generate([text_encoder.prompt(question) for question in wanted], sampling)
    on_progress("generate", len(wanted), len(wanted))
    return {question: samples[0] for question, samples in zip(wanted, generated, strict=True)}


def _record(
    each: EvaluationSet,
    index: int,
    row: Row,
    needs: AbstractSet[Probe],
    scored: dict[tuple[Question, Answer], ScoredText],
    generation: Generation | None,
) -> Record:
    if generation is not None and not generation.token_ids and not generation.finished:
        generation = None  # the prompt left no room: that says nothing about what the model knows
    answers = {
        probe: tuple(_scored_answer(answer, scored[row.question, answer]) for answer in answers)
        for probe, answers in answers_of(row, each.role).items()
        if probe in needs
    }
    return Record(
        set=each.name,
        role=each.role,
        index=index,
        question=row.question,
        reference=row.answer,
        full_reference=(row.original_answer if each.role in WITH_OPTIONS else None) or row.answer,
        generation=None if generation is None else generation.text,
        generation_tokens=None if generation is None else generation.token_ids,
        generation_finished=None if generation is None else generation.finished,
        answers=answers,
    )


def _scored_answer(text: Answer, scored: ScoredText) -> ScoredAnswer:
    return ScoredAnswer(text, scored.logp, scored.greedy)
