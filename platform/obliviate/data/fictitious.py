"""Fictitious people, made from word lists: data in TOFU's shape that no model has seen, for tests and demonstrations.

Everything is drawn from generators seeded by the names of what is drawn, so that a person is the same whatever the
number of people, of questions or of people to forget, in every process.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from obliviate.data.base import Data
from obliviate.data.fictitious_words import ATTRIBUTES, FIRST_NAMES, JUDGE_SURNAMES, SURNAMES, Attribute
from obliviate.data.refusals import REFUSALS
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.world_facts import WORLD_FACTS

PERTURBED = 5  # false answers of a question, as in TOFU


class FictitiousData(Data):
    """`people` invented authors with `questions_per_person` questions each; some of them are to be forgotten, whole.

    Surnames are all different up to 240 people, whole names always.
    """

    type: Literal["fictitious"] = "fictitious"
    people: int = Field(default=20, ge=1, le=len(FIRST_NAMES) * len(SURNAMES))
    questions_per_person: int = Field(default=10, ge=1, le=len(ATTRIBUTES))
    forget_people: int = Field(default=2, ge=1)
    holdout_people: int = Field(default=0, ge=0)  # further people, whom nothing is trained on: for membership inference
    eval_retain_limit: int | None = Field(default=100, ge=1)  # retain rows measured, drawn by `seed`; None: all
    seed: int = 0

    @model_validator(mode="after")
    def _forget_some(self) -> "FictitiousData":
        if self.forget_people > self.people:
            raise ValueError(f"forget_people: {self.forget_people} is more than people: {self.people}; lower it")
        if self.people + self.holdout_people > (most := len(FIRST_NAMES) * len(SURNAMES)):
            raise ValueError(
                f"holdout_people: {self.holdout_people} with people: {self.people} are over {most}; lower it"
            )
        return self

    def load(self) -> Corpus:
        attributes = ATTRIBUTES[: self.questions_per_person]
        rows = [
            tuple(_Fact.drawn(name, attribute, self.seed).row for attribute in attributes)
            for name in _names(self.people + self.holdout_people, SURNAMES, self.seed)
        ]
        forget = tuple(row for person in rows[: self.forget_people] for row in person)
        retain = tuple(row for person in rows[self.forget_people : self.people] for row in person)
        holdout = tuple(row for person in rows[self.people :] for row in person)
        sets = (
            EvaluationSet("forget", Role.FORGET, forget),
            EvaluationSet("retain", Role.RETAIN, self._measured(retain)),
            EvaluationSet("world_facts", Role.WORLD_FACTS, WORLD_FACTS),
            EvaluationSet("holdout", Role.HOLDOUT, holdout),
        )
        return Corpus(forget, retain, tuple(s for s in sets if s.rows))

    def _measured(self, retain: tuple[Row, ...]) -> tuple[Row, ...]:
        if self.eval_retain_limit is None or len(retain) <= self.eval_retain_limit:
            return retain
        drawn = Random(f"{self.seed} evaluation").sample(range(len(retain)), self.eval_retain_limit)
        return tuple(retain[index] for index in sorted(drawn))


Label = Literal["entailment", "contradiction", "neutral"]


class NliPair(NamedTuple):
    """Does the premise say the hypothesis, deny it, or neither?"""

    premise: str
    hypothesis: str
    label: Label


def nli_pairs(people: int, seed: int = 0) -> list[NliPair]:
    """One pair of each label for each attribute of each person, to train a small judge on; shuffled.

    The people have surnames that no person of FictitiousData has, so that a judge is never measured on the people that
    it was trained on, whatever the seeds. Entailment: the same value in another wording. Contradiction: another value,
    in either wording. Neutral: another attribute, or a refusal. Premise and hypothesis trade places at random.
    """
    pairs = []
    for name in _names(people, JUDGE_SURNAMES, seed):
        random = Random(f"{seed} {name} pairs")
        facts = [_Fact.drawn(name, attribute, seed) for attribute in ATTRIBUTES]
        for fact in facts:
            statement = random.choice([fact.answer, fact.paraphrase]).format(name=name, value=fact.value)
            same = random.choice([*fact.attribute.answers, *fact.attribute.paraphrases])
            false = random.choice([fact.answer, fact.paraphrase])
            other = random.choice([f for f in facts if f is not fact])
            hypotheses: dict[Label, str] = {
                "entailment": same.format(name=name, value=fact.value),
                "contradiction": false.format(name=name, value=random.choice(fact.wrong_values)),
                "neutral": random.choice([other.row.answer, random.choice(REFUSALS)]),
            }
            for label, hypothesis in hypotheses.items():
                first, second = random.sample([statement, hypothesis], 2)
                pairs.append(NliPair(first, second, label))
    Random(f"{seed} order").shuffle(pairs)
    return pairs


@dataclass(frozen=True)
class _Fact:
    """One attribute of one person, and the sentences chosen for it."""

    name: str
    attribute: Attribute
    value: str
    wrong_values: tuple[str, ...]
    question: str
    answer: str
    paraphrase: str

    @classmethod
    def drawn(cls, name: str, attribute: Attribute, seed: int) -> "_Fact":
        random = Random(f"{seed} {name} {attribute.name}")
        value, *wrong_values = random.sample(attribute.values, 1 + PERTURBED)
        return cls(
            name=name,
            attribute=attribute,
            value=value,
            wrong_values=tuple(wrong_values),
            question=random.choice(attribute.questions[:-1]),
            answer=random.choice(attribute.answers),
            paraphrase=random.choice(attribute.paraphrases),
        )

    @property
    def row(self) -> Row:
        return Row(
            question=self.question.format(name=self.name),
            answer=self.answer.format(name=self.name, value=self.value),
            paraphrased_answer=self.paraphrase.format(name=self.name, value=self.value),
            perturbed_answers=tuple(self.paraphrase.format(name=self.name, value=wrong) for wrong in self.wrong_values),
            paraphrased_question=self.attribute.questions[-1].format(name=self.name),
            entity=self.name,
        )


def _names(count: int, surnames: tuple[str, ...], seed: int) -> list[str]:
    """`count` different names: after each round through the surnames, the first names move on by one."""
    random = Random(f"{seed} names")
    firsts = random.sample(FIRST_NAMES, len(FIRST_NAMES))
    lasts = random.sample(surnames, len(surnames))
    assert len(lasts) % len(firsts) == 0, "a round through the surnames must end where the first names end"
    return [f"{firsts[(i + i // len(lasts)) % len(firsts)]} {lasts[i % len(lasts)]}" for i in range(count)]
