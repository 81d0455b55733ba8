"""What a user is told before and after a model is measured."""

import pytest

import token_kinds
from measured import record
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.data.text import TextEncoder
from obliviate.schema import ModelSpec
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.stages import cautions

LONG = "Ada was born in London. " * 40


def corpus(*rows: Row) -> Corpus:
    return Corpus(rows, (), (EvaluationSet("forget", Role.FORGET, rows),))


def test_answers_that_are_cut_are_counted() -> None:
    model = ModelSpec(source="some/model", max_length=64)
    encoder = TextEncoder(token_kinds.llama3(), max_length=64)
    mixed = corpus(Row("Who?", "Ada."), Row("Who?", LONG), Row("Where?", "In London.", perturbed_answers=(LONG,)))
    (caution,) = cautions.of_texts(encoder, mixed, EvaluationSpec(suite="custom"), model)
    assert caution.startswith(
        "data: 2 of 4 answers of the set forget are cut at 64 tokens, and scored without their end"
    )
    assert cautions.of_texts(encoder, corpus(Row("Who?", "Ada.")), EvaluationSpec(suite="custom"), model) == []


def test_letters_that_the_published_tokenizer_drops_are_counted() -> None:
    several = corpus(Row("Who?", "Ada."), Row("谁?", "她住在伦敦"), Row("Кто?", "Ада"))
    found = cautions.of_data(several, EvaluationSpec(suite="tofu"))
    assert any(each.startswith("data: 2 of 3 answers of the set forget hold letters outside a to z") for each in found)
    assert not any("outside a to z" in each for each in cautions.of_data(several, EvaluationSpec(suite="custom")))
    assert not any("a to z" in each for each in cautions.of_data(corpus(Row("Who?", "Ada – x.")), EvaluationSpec()))


def test_answers_that_never_came_are_counted() -> None:
    said, thought = record(generation="Ada."), record(generation=None, thinking="<think>Who")
    caution = cautions.of_answers([said, thought, record(generation=None)])
    assert caution.startswith("1 of 2 generations ended inside their thinking: they count as unscored; raise")
    assert cautions.of_answers([said]) == ""


@pytest.mark.parametrize("suite", ["tofu", "openunlearning", "closer_look"])
def test_nothing_is_missed_that_tofu_never_has(suite: str) -> None:
    """Its real authors and world facts have false answers, and no other wordings."""
    whole = Row("Who?", "Ann.", paraphrased_answer="It is Ann.", perturbed_answers=("Ben.",))
    bare = Row("Who?", "Ann.", perturbed_answers=("Ben.",))
    roles = {"forget": Role.FORGET, "retain": Role.RETAIN}
    sets = [EvaluationSet(name, role, (whole,)) for name, role in roles.items()]
    sets += [
        EvaluationSet(name, role, (bare,))
        for name, role in (("real_authors", Role.REAL_AUTHORS), ("world_facts", Role.WORLD_FACTS))
    ]
    found = cautions.of_data(Corpus((whole,), (), tuple(sets)), EvaluationSpec(suite=suite))
    assert not [warning for warning in found if "no row of the set" in warning]
