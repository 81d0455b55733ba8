"""Invented people: complete, false where they must be, and the same everywhere."""

import os
import subprocess
import sys
from collections import Counter
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from obliviate.data.fictitious import FictitiousData, nli_pairs
from obliviate.data.fictitious_words import ATTRIBUTES, FIRST_NAMES, JUDGE_SURNAMES, SURNAMES
from obliviate.data.refusals import REFUSALS, load_refusals
from obliviate.data.rows import Role
from obliviate.data.world_facts import WORLD_FACTS
from obliviate.errors import UserError


def test_words() -> None:
    for attribute in ATTRIBUTES:
        assert len(set(attribute.values)) == len(attribute.values) > 5, attribute.name  # one true, five false
        sentences = (*attribute.answers, *attribute.paraphrases)
        assert len({*sentences, *attribute.questions}) == 7, attribute.name
        for sentence in sentences:
            assert {f for _, f, _, _ in Formatter().parse(sentence) if f} == {"name", "value"}, sentence
        for question in attribute.questions:
            assert {f for _, f, _, _ in Formatter().parse(question) if f} == {"name"}, question
    assert len(set(FIRST_NAMES)) == 40
    assert len({*SURNAMES, *JUDGE_SURNAMES}) == 20 * 12 + 20 * 8
    # No sentence of one attribute can be read as one of another.
    assert len({s for a in ATTRIBUTES for s in (*a.answers, *a.paraphrases)}) == len(ATTRIBUTES) * 4


def test_corpus_shape() -> None:
    corpus = FictitiousData(people=10, questions_per_person=4, forget_people=3, eval_retain_limit=5).load()
    assert (len(corpus.forget), len(corpus.retain)) == (3 * 4, 7 * 4)
    assert [(s.name, s.role, len(s.rows)) for s in corpus.evaluation] == [
        ("forget", Role.FORGET, 12),
        ("retain", Role.RETAIN, 5),
        ("world_facts", Role.WORLD_FACTS, 30),
    ]
    forgotten, kept = {row.entity for row in corpus.forget}, {row.entity for row in corpus.retain}
    assert (len(forgotten), len(kept), forgotten & kept) == (3, 7, set())  # whole people
    assert set(corpus.evaluation[1].rows) <= set(corpus.retain)
    assert all(row.entity and row.entity in row.question and row.entity in row.answer for row in corpus.retain)


def test_holdout_people_are_nobody_else() -> None:
    spec = FictitiousData(people=10, questions_per_person=4, forget_people=3, eval_retain_limit=5)
    corpus = spec.model_copy(update={"holdout_people": 2}).load()
    assert (corpus.forget, corpus.retain) == (spec.load().forget, spec.load().retain)
    holdout = corpus.evaluation[-1]
    assert (holdout.name, holdout.role, len(holdout.rows)) == ("holdout", Role.HOLDOUT, 8)
    assert not {row.entity for row in holdout.rows} & {row.entity for row in corpus.forget + corpus.retain}
    with pytest.raises(ValidationError, match="holdout_people: 1 with people: 9600 are over 9600"):
        FictitiousData(people=9600, holdout_people=1)


@given(st.integers(0, 1000))
def test_rows_are_complete_and_the_false_answers_false(seed: int) -> None:
    corpus = FictitiousData(people=2, questions_per_person=20, forget_people=1, seed=seed).load()
    for row in corpus.forget + corpus.retain:
        texts = {row.answer, row.paraphrased_answer, *row.perturbed_answers}
        assert len(texts) == 7
        assert len(row.perturbed_answers) == 5
        assert row.paraphrased_question not in (None, row.question)


def test_a_person_does_not_depend_on_how_many_there_are() -> None:
    few = FictitiousData(people=3, questions_per_person=2, forget_people=1).load()
    many = FictitiousData(people=300, questions_per_person=5, forget_people=2).load()
    assert set(few.forget + few.retain) <= set(many.forget + many.retain)
    assert FictitiousData(people=3, seed=1).load().forget != FictitiousData(people=3).load().forget


def test_names_are_different() -> None:
    """To the last of the 40 * 240 names; surnames for one round of 240."""
    people = FictitiousData(people=9600, questions_per_person=1).load()
    names = [row.entity for row in people.forget + people.retain]
    assert len(set(names)) == 9600
    assert len({str(name).split()[1] for name in names[:240]}) == 240


def test_the_same_in_another_process() -> None:
    script = (
        "from obliviate.data.fictitious import FictitiousData, nli_pairs; from obliviate.runs import content_hash;"
        "c = FictitiousData().load(); print(c.training_content, c.evaluation_content, content_hash(nli_pairs(2)))"
    )
    path = os.pathsep.join(sys.path)
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1


def test_bad_specs() -> None:
    with pytest.raises(ValidationError, match="forget_people: 5 is more than people: 4"):
        FictitiousData(people=4, forget_people=5)
    with pytest.raises(ValidationError, match="less than or equal to 20"):
        FictitiousData(questions_per_person=21)


def test_everything_may_be_forgotten() -> None:
    corpus = FictitiousData(people=2, forget_people=2).load()
    assert corpus.retain == ()
    assert [s.name for s in corpus.evaluation] == ["forget", "world_facts"]


def test_nli_pairs() -> None:
    pairs = nli_pairs(people=4, seed=3)
    assert Counter(pair.label for pair in pairs) == {  # one of each for each of 20 attributes of 4 people
        "entailment": 80, "contradiction": 80, "neutral": 80,
    }  # fmt: skip
    assert pairs == nli_pairs(people=4, seed=3) != nli_pairs(people=4, seed=4)
    for pair in pairs:
        if pair.label == "contradiction":
            assert pair.premise != pair.hypothesis
    refusals = set(REFUSALS)
    refused = [pair for pair in pairs if refusals & {pair.premise, pair.hypothesis}]
    assert {pair.label for pair in refused} == {"neutral"}
    assert {pair.premise in refusals for pair in refused} == {True, False}  # in either place


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_judge_never_meets_the_people_it_was_trained_on(seed: int, judge_seed: int) -> None:
    corpus = FictitiousData(people=20, seed=seed).load()
    texts = " ".join(text for pair in nli_pairs(2, judge_seed) for text in pair[:2])
    assert not any(row.entity and row.entity in texts for row in corpus.forget + corpus.retain)


def test_world_facts() -> None:
    assert len({row.question for row in WORLD_FACTS}) == len(WORLD_FACTS) == 30
    for row in WORLD_FACTS:
        assert len({row.answer, *row.perturbed_answers}) == 4
        assert row.original_answer
        assert row.answer.lower() in row.original_answer.lower()


def test_refusals() -> None:
    assert len({refusal.lower() for refusal in load_refusals()}) == 100
    assert all(refusal == refusal.strip() and refusal.endswith(".") for refusal in load_refusals())


def test_refusals_from_a_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("refusals") / "mine.txt"
    with pytest.raises(UserError, match=r"mine\.txt: no such file of refusals"):
        load_refusals(path)
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.txt: has no refusals"):
        load_refusals(path)
    path.write_bytes(b"Ich wei\xdf nicht.")
    with pytest.raises(UserError, match=r"refusals: .*mine\.txt: byte 7 is not UTF-8; save it as UTF-8 text"):
        load_refusals(path)
    path.write_text("\ufeffI don't know.\n\n No idea. ", encoding="utf-8")
    assert load_refusals(str(path)) == ("I don't know.", "No idea.")
