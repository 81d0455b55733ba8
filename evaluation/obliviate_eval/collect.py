"""From evaluation sets to records: every distinct text is generated for, or scored, once."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypeVar

from obliviate.data.rows import EvaluationSet, Message, Role, Row
from obliviate.data.text import Encoded, TextEncoder
from obliviate.inference.engine import Generation, ScoredText, WhiteBox
from obliviate.inference.thinking import without_thinking
from obliviate.schema import GenerationSpec
from obliviate_eval.metrics.base import WITH_OPTIONS
from obliviate_eval.records import Probe, Record, ScoredAnswer

Progress = Callable[[str, int, int], None]  # (what is being done, how many are done, of how many)
NeedsOf = Callable[[str, Role], AbstractSet[Probe]]  # (set, its role) -> the probes of everything that asks for it
Question = tuple[str, tuple[Message, ...]]  # with what was said before
Answer = str
QA = tuple[str, Answer, tuple[Message, ...]]
Text = TypeVar("Text")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sampling:
    """How a question is continued: once greedily, and, where a metric needs them, as several samples."""

    greedy: GenerationSpec
    several: GenerationSpec


@dataclass(frozen=True)
class _Asked:
    """A row with the probes that its set's metrics need."""

    each: EvaluationSet
    index: int
    row: Row
    needs: AbstractSet[Probe]


@dataclass(frozen=True)
class _Measured:
    """What the engine said, by text: what was not asked for is absent."""

    scored: dict[QA, ScoredText]
    generated: dict[Question, list[Generation]]
    samples: dict[Question, list[Generation]]
    gradient_norms: dict[QA, float | None]
    cut: frozenset[QA]


def collect(
    engine: WhiteBox,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    needs_of: NeedsOf,
    sampling: Sampling,
    on_progress: Progress,
    on_generated: Callable[[list[Record]], None] = lambda records: None,
) -> list[Record]:
    """One record a row, in the sets' order, without judgements; a set that nothing asks for is left out.

    `on_generated` gets them with their generations alone, before the engine goes on to what takes longer.
    """
    needed = [(s, needs) for s in sets if (needs := needs_of(s.name, s.role))]
    asked = [_Asked(s, i, row, needs) for s, needs in needed for i, row in enumerate(s.rows)]

    def each(stage: str, texts: Sequence[Text], ask: Callable[[Sequence[Text]], list[Result]]) -> dict[Text, Result]:
        if not texts:
            return {}
        on_progress(stage, 0, len(texts))
        answers = ask(texts)
        on_progress(stage, len(texts), len(texts))
        return dict(zip(texts, answers, strict=True))

    # Where an answer's moments are needed, its log-probabilities come with them: it is not scored twice.
    with_moments = _true_answers(asked, Probe.MOMENTS)
    apart = set(with_moments)
    answers = list(dict.fromkeys(pair for one in asked for pair in _answers(one) if pair not in apart))
    of_gradients = _true_answers(asked, Probe.GRADIENT_NORM)
    # Before the engine begins: a question that is too long is found now, not when everything is generated.
    ids = {pair: text_encoder.encode(*pair) for pair in (*answers, *with_moments, *of_gradients)}

    def encoded(pairs: Sequence[QA]) -> list[Encoded]:
        return [ids[pair] for pair in pairs]

    def said_to(questions: Sequence[Question], how: GenerationSpec) -> list[list[Generation]]:
        prompts = [text_encoder.prompt(*question) for question in questions]
        return without_thinking(text_encoder, engine.generate(prompts, how))

    generated = each("generate", _questions(asked, Probe.GENERATION), lambda qs: said_to(qs, sampling.greedy))
    cut = frozenset(pair for pair, text in ids.items() if text.cut)
    said = _Measured({}, generated, {}, {}, cut)
    on_generated([_record(replace(one, needs=one.needs & {Probe.GENERATION}), said) for one in asked])
    scored = each("score", answers, lambda pairs: engine.score(encoded(pairs)))
    samples = each("sample", _questions(asked, Probe.SAMPLES), lambda qs: said_to(qs, sampling.several))
    # What vLLM cannot measure comes last: the engine is exchanged once.
    scored |= each("moments", with_moments, lambda pairs: engine.moments(encoded(pairs)))
    norms = each("gradient norms", of_gradients, lambda pairs: engine.gradient_norms(encoded(pairs)))
    measured = _Measured(scored, generated, samples, norms, cut)
    return [_record(one, measured) for one in asked]


def answers_of(row: Row, role: Role) -> dict[Probe, tuple[Answer, ...]]:
    """The answers to be teacher-forced. Real authors and world facts: the short answer stands for its paraphrase."""
    paraphrased = row.fact if role in WITH_OPTIONS else row.paraphrased_answer
    return {
        Probe.ANSWER: (row.fact,),
        Probe.PARAPHRASED: () if paraphrased is None else (paraphrased,),
        Probe.PERTURBED: row.perturbed_answers,
        Probe.MOMENTS: (row.fact,),
    }


def _answers(asked: _Asked) -> list[QA]:
    found = answers_of(asked.row, asked.each.role)
    return [_qa(asked.row, answer) for probe in found if probe in asked.needs for answer in found[probe]]


def _qa(row: Row, answer: Answer) -> QA:
    return row.question, answer, row.history


def _true_answers(asked: Sequence[_Asked], probe: Probe) -> list[QA]:
    return list(dict.fromkeys(_qa(one.row, one.row.fact) for one in asked if probe in one.needs))


def _questions(asked: Sequence[_Asked], probe: Probe) -> list[Question]:
    """A plain text has no question: its probability is measured, but there is nothing to answer."""
    rows = [one.row for one in asked if probe in one.needs and one.row.question]
    return list(dict.fromkeys((row.question, row.history) for row in rows))


def _record(asked: _Asked, measured: _Measured) -> Record:
    row, role, needs = asked.row, asked.each.role, asked.needs
    generation = next(iter(_said(row, measured.generated)), None) if Probe.GENERATION in needs else None
    thinking = next((each.thinking for each in measured.generated.get((row.question, row.history), [])), "")
    return Record(
        set=asked.each.name,
        role=role,
        index=asked.index,
        question=row.question,
        reference=row.fact,
        full_reference=(row.original_answer if role in WITH_OPTIONS else None) or row.fact,
        similar_to=None if row.golden_answer is None else row.answer,
        generation=None if generation is None else generation.text,
        generation_tokens=None if generation is None else generation.token_ids,
        generation_finished=None if generation is None else generation.finished,
        thinking=thinking or None if Probe.GENERATION in needs else None,
        answers={
            probe: tuple(_scored_answer(_qa(row, answer), measured) for answer in answers)
            for probe, answers in answers_of(row, role).items()
            if probe in needs
        },
        samples=tuple(said.text for said in _said(row, measured.samples)) if Probe.SAMPLES in needs else (),
        gradient_norm=measured.gradient_norms.get(_qa(row, row.fact)) if Probe.GRADIENT_NORM in needs else None,
    )


def _said(row: Row, by_question: dict[Question, list[Generation]]) -> list[Generation]:
    """None where one of them was left no room to answer, by the prompt or by the model's thinking: it says nothing
    about what the model knows."""
    said = by_question.get((row.question, row.history), [])
    return said if all(each.token_ids or each.finished for each in said) else []


def _scored_answer(pair: QA, measured: _Measured) -> ScoredAnswer:
    scored = measured.scored[pair]
    return ScoredAnswer(pair[1], scored.logp, scored.greedy, scored.mean, scored.variance, pair in measured.cut)
