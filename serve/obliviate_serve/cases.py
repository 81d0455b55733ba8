"""What a probe comes to: each model under each attack, and what has come back of each so far."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from obliviate_serve.api import Answer, Asked, Change, Key, ProbeResult, Probing, Question, TrueAnswer
from obliviate_serve.attacks import Way, nothing_to_ask_with, ways
from obliviate_serve.change import change
from obliviate_serve.engine import Quiz
from obliviate_serve.errors import ApiError
from obliviate_serve.facts import key_of, sayings
from obliviate_serve.names import Target
from obliviate_serve.server import Server

MAX_PROMPTS = 1024  # that one question may come to


@dataclass(frozen=True)
class Case:
    """One model under one attack. `key`: ranges of the true answer's characters; `sayings`: of its fact, where any is
    looked for."""

    asked: Asked
    target: Target
    quiz: Quiz
    key: tuple[tuple[int, int], ...]
    sayings: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plan:
    """`key`: of the true answer, if it is known."""

    cases: list[Case]
    key: Key | None


def asked_ways(probing: Probing, question: Question, *, one_of_many: bool) -> list[Way]:
    """Of all attacks. Raises ApiError for one that there isn't, and for what a question lacks; of one of many questions
    the attacks that it brings nothing for are left out, unless none remains."""
    found = {name: ways(name, question) for name in probing.attacks}
    asked = [way for each in found.values() for way in each]
    lacking = [name for name, each in found.items() if not each]
    if lacking and not (one_of_many and asked):
        raise nothing_to_ask_with(lacking[0])
    if (prompts := len(probing.models) * len(asked) * (probing.samples + 2)) > MAX_PROMPTS:
        raise ApiError(400, f"models x attacks x (samples + 2) is {prompts}, more than {MAX_PROMPTS}", param="samples")
    return asked


def check_names(server: Server, probing: Probing) -> dict[str, Target]:
    """What answers for each model. Raises ApiError for a model or a reference that there isn't."""
    if probing.reference is not None and probing.reference not in probing.models:
        raise ApiError(400, f"reference: {probing.reference!r} is not among the models; ask it too", param="reference")
    return {model: server.names.target(model) for model in probing.models}


def plan(server: Server, probing: Probing, question: Question, *, one_of_many: bool = False) -> Plan:
    """For each model its attacks. Raises ApiError as `asked_ways` does, and for names that there aren't."""
    asked = asked_ways(probing, question, one_of_many=one_of_many)
    key = key_of(question)
    spans = () if key is None else tuple((each.start, each.end) for each in key.facts)
    said = {way.name: sayings(question, key, way.question, way.prefix) for way in asked}
    cases = []
    for model, target in check_names(server, probing).items():
        for way in asked:
            quiz = Quiz(way.question, way.prefix, history=question.said_before)
            shown = Asked(
                model=model, served_model=target.name, attack=way.name, question=way.question, prefix=way.prefix
            )
            cases.append(Case(shown, target, quiz, spans, said[way.name]))
    return Plan(cases, key)


@dataclass
class Collected:
    """Answers of all cases as they come; where a case has all of them and its reference, the change is told."""

    probing: Probing
    cases: Sequence[Case]
    answers: dict[tuple[int, int | None], Answer] = field(default_factory=dict)
    true: dict[int, TrueAnswer] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    changes: dict[int, Change] = field(default_factory=dict)

    @cached_property
    def _references(self) -> dict[str, int]:
        """The case of the reference under each attack."""
        cases = enumerate(self.cases)
        return {each.asked.attack: i for i, each in cases if each.asked.model == self.probing.reference}

    def new_changes(self) -> Iterator[tuple[int, Change]]:
        for index, case in enumerate(self.cases):
            reference = self._references.get(case.asked.attack)
            known = reference is None or reference in self.true or reference in self.failed
            if index in self.changes or not known or not self._whole(index):
                continue
            beside = None if reference is None else self.true.get(reference)
            answers = [self.answers[index, sample] for sample in self._samples]
            self.changes[index] = change(self.true[index], answers, case.sayings, beside, self.probing.factor)
            yield index, self.changes[index]

    def results(self) -> list[ProbeResult]:
        """Of cases none of which failed."""
        return [
            ProbeResult(
                **case.asked.model_dump(),
                greedy=self.answers[index, None],
                samples=[self.answers[index, sample] for sample in range(self.probing.samples)],
                true_answer=self.true.get(index),
                change=self.changes.get(index),
            )
            for index, case in enumerate(self.cases)
        ]

    @property
    def _samples(self) -> tuple[int | None, ...]:
        return (None, *range(self.probing.samples))

    def _whole(self, index: int) -> bool:
        return index in self.true and all((index, sample) in self.answers for sample in self._samples)
