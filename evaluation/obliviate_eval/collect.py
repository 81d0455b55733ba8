"""From evaluation sets to records: every distinct text is generated for, or scored, once."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from obliviate.data.key_facts import key_spans
from obliviate.data.rows import EvaluationSet, Question, Role, Row, Said
from obliviate.data.text import Encoded, TextEncoder
from obliviate.inference.engine import Generation, ScoredText, WhiteBox
from obliviate.inference.thinking import without_thinking
from obliviate.schema import GenerationSpec
from obliviate_eval.metrics.base import WITH_OPTIONS
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.suites.base import Suite

Progress = Callable[[str, int, int], None]  # (what is being done, how many are done, of how many)
Answer = str
Text = TypeVar("Text")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sampling:
    """How a question is continued: once greedily, and, where a metric needs them, as several samples."""

    greedy: GenerationSpec
    several: GenerationSpec


@dataclass(frozen=True)
class _Asked:
    """A row with the probes that its set's metrics need, how it is continued, and what its words are compared with."""

    each: EvaluationSet
    index: int
    row: Row
    needs: AbstractSet[Probe]
    greedy: GenerationSpec
    truth: str
    tokens: int | None  # that a generation is cut to; None: as many as were asked for


@dataclass(frozen=True)
class _Measured:
    """What the engine said, by text: what was not asked for is absent."""

    scored: dict[Said, ScoredText]
    generated: dict[tuple[Question, GenerationSpec], list[Generation]]
    samples: dict[Question, list[Generation]]
    gradient_norms: dict[Said, float | None]
    cut: frozenset[Said]


def collect(
    engine: WhiteBox,
    text_encoder: TextEncoder,
    sets: Sequence[EvaluationSet],
    suite: Suite,
    sampling: Sampling,
    on_progress: Progress,
) -> list[Record]:
    """One record a row, in the sets' order, without judgements; a set that nothing asks for is left out."""
    asked = _asked(text_encoder, sets, suite, sampling.greedy)

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

    def encoded(pairs: Sequence[Said]) -> list[Encoded]:
        return [ids[pair] for pair in pairs]

    def said_to(questions: Sequence[Question], how: GenerationSpec) -> list[list[Generation]]:
        prompts = [text_encoder.prompt(*question) for question in questions]
        return without_thinking(text_encoder, engine.generate(prompts, how))

    generated: dict[tuple[Question, GenerationSpec], list[Generation]] = {}
    for how in dict.fromkeys(one.greedy for one in asked):
        questions = _questions([one for one in asked if one.greedy == how], Probe.GENERATION)
        said = each("generate", questions, partial(said_to, how=how))
        generated |= {(question, how): answers for question, answers in said.items()}
    cut = frozenset(pair for pair, text in ids.items() if text.cut)
    scored = each("score", answers, lambda pairs: engine.score(encoded(pairs)))
    samples = each("sample", _questions(asked, Probe.SAMPLES), lambda qs: said_to(qs, sampling.several))
    # What vLLM cannot measure comes last: the engine is exchanged once.
    scored |= each("moments", with_moments, lambda pairs: engine.moments(encoded(pairs)))
    norms = each("gradient norms", of_gradients, lambda pairs: engine.gradient_norms(encoded(pairs)))
    measured = _Measured(scored, generated, samples, norms, cut)
    return [_record(text_encoder, one, measured) for one in asked]


def _asked(
    text_encoder: TextEncoder, sets: Sequence[EvaluationSet], suite: Suite, greedy: GenerationSpec
) -> list[_Asked]:
    """The rows of the sets that something asks for."""
    found = []
    for each in sets:
        needs, limit = suite.needs_of(each.name, each.role), suite.new_tokens_of(each.name)
        how = greedy
        if limit is not None and greedy.max_new_tokens is not None:
            how = greedy.model_copy(update={"max_new_tokens": min(limit, greedy.max_new_tokens)})
        indices = range(len(each.rows)) if each.indices is None else each.indices
        for index, row in zip(indices, each.rows, strict=True) if needs else ():
            truth = row.fact
            if each.name in suite.cut_truths and how.max_new_tokens is not None:
                truth = text_encoder.beginning(truth, how.max_new_tokens)
            tokens = len(text_encoder.tokenizer(truth).input_ids) if each.name in suite.as_long_as_truth else None
            found.append(_Asked(each, index, row, needs, how, truth, tokens))
    return found


def answers_of(row: Row, role: Role) -> dict[Probe, tuple[Answer, ...]]:
    """The answers to be teacher-forced. Real authors and world facts: the short answer stands for its paraphrase."""
    paraphrased = row.fact if role in WITH_OPTIONS else row.paraphrased_answer
    return {
        Probe.ANSWER: (row.fact,),
        Probe.PARAPHRASED: () if paraphrased is None else (paraphrased,),
        Probe.PERTURBED: row.perturbed_answers,
        Probe.KEY: (row.fact,),
        Probe.MOMENTS: (row.fact,),
    }


def _answers(asked: _Asked) -> list[Said]:
    found = answers_of(asked.row, asked.each.role)
    return [asked.row.saying(answer) for probe in found if probe in asked.needs for answer in found[probe]]


def _true_answers(asked: Sequence[_Asked], probe: Probe) -> list[Said]:
    return list(dict.fromkeys(one.row.saying(one.row.fact) for one in asked if probe in one.needs))


def _questions(asked: Sequence[_Asked], probe: Probe) -> list[Question]:
    """A plain text has no question: its probability is measured, but there is nothing to answer."""
    rows = [one.row for one in asked if probe in one.needs and one.row.question]
    return list(dict.fromkeys(row.asked for row in rows))


def _record(text_encoder: TextEncoder, asked: _Asked, measured: _Measured) -> Record:
    row, role, needs = asked.row, asked.each.role, asked.needs
    first = measured.generated.get((row.asked, asked.greedy), [])
    if asked.tokens is not None:
        first = [_beginning(text_encoder, each, asked.tokens) for each in first]
    generation = next(iter(_answered(first)), None) if Probe.GENERATION in needs else None
    thinking = next((each.thinking for each in first), "")
    several = measured.samples.get(row.asked, [])
    return Record(
        set=asked.each.name,
        role=role,
        index=asked.index,
        question=row.question,
        reference=asked.truth,
        aliases=row.aliases,
        full_reference=(row.original_answer if role in WITH_OPTIONS else None) or row.fact,
        similar_to=None if row.golden_answer is None else row.answer,
        generation=None if generation is None else generation.text,
        generation_tokens=None if generation is None else generation.token_ids,
        generation_finished=None if generation is None else generation.finished,
        thinking=thinking or None if Probe.GENERATION in needs else None,
        answers=_scored_answers(text_encoder, asked, measured),
        samples=tuple(said.text for said in _answered(several)) if Probe.SAMPLES in needs else (),
        gradient_norm=measured.gradient_norms.get(row.saying(row.fact)) if Probe.GRADIENT_NORM in needs else None,
    )


def _scored_answers(
    text_encoder: TextEncoder, asked: _Asked, measured: _Measured
) -> dict[Probe, tuple[ScoredAnswer, ...]]:
    row, found = asked.row, answers_of(asked.row, asked.each.role)
    answers = {
        probe: tuple(_scored_answer(row.saying(answer), measured) for answer in answers)
        for probe, answers in found.items()
        if probe in asked.needs
    }
    if Probe.KEY in answers:
        [whole] = answers[Probe.KEY]
        answers[Probe.KEY] = tuple(_key_facts(text_encoder, row, whole))
    return answers


def _key_facts(text_encoder: TextEncoder, row: Row, whole: ScoredAnswer) -> Iterator[ScoredAnswer]:
    encoded = text_encoder.encode(*row.saying(row.fact))
    for start, end in key_spans(row):
        # Without scores, which not every server gives, the words stand alone.
        places = text_encoder.places(encoded, row.fact, [(start, end)]) if whole.logp else ()
        logp, greedy = tuple(whole.logp[place] for place in places), tuple(whole.greedy[place] for place in places)
        yield ScoredAnswer(row.fact[start:end], logp, greedy, cut=whole.cut)


def _beginning(text_encoder: TextEncoder, said: Generation, tokens: int) -> Generation:
    ids = said.token_ids[:tokens]
    if len(ids) == len(said.token_ids):
        return said
    text = text_encoder.tokenizer.decode(list(ids), skip_special_tokens=True)
    return replace(said, text=text.lstrip(), token_ids=ids, finished=False)


def _answered(said: list[Generation]) -> list[Generation]:
    """None where one of them was left no room to answer, by the prompt or by the model's thinking: it says nothing
    about what the model knows."""
    return said if all(each.token_ids or each.finished for each in said) else []


def _scored_answer(pair: Said, measured: _Measured) -> ScoredAnswer:
    scored = measured.scored[pair]
    cut = pair in measured.cut
    return ScoredAnswer(pair[1], scored.logp, scored.greedy, scored.mean, scored.variance, cut, scored.rank)
