"""Formats of asking: the rows they make, on rows of our own."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.data.key_facts import key_texts
from obliviate.data.options import LETTERS
from obliviate.data.relu import ODD, PUBLISHED_ODD
from obliviate.data.rows import EvaluationSet, Role, Row, parse_row, read_rows, write_rows
from obliviate.errors import UserError
from obliviate.wordings import WORDINGS
from obliviate_eval.formats import FORMATS, Asked, ask
from obliviate_eval.formats.base import Material
from obliviate_eval.formats.names import names, without
from obliviate_eval.metrics import METRIC_TYPES

TOWNS = ["Lima", "Oslo", "Rome", "Kyiv", "Cork", "Bonn", "Nice", "Graz", "Linz", "Pisa", "Bari", "York"]
PEOPLE = [
    "Ana Ruiz",
    "Bo Lund",
    "Cy Orr",
    "Di Nagy",
    "Ed Ito",
    "Flo Voss",
    "Gil Roy",
    "Hana Mori",
    "Ida Berg",
    "Jon Sato",
]


def row(person: str, town: str, **fields: object) -> Row:
    false = tuple(f"{person} was born in {each}." for each in TOWNS if each != town)[:5]
    return Row(
        f"In which town was {person} born?",
        f"{person} was born in {town}.",
        perturbed_answers=false,
        **fields,  # type: ignore[arg-type]
    )


ITEMS = tuple(row(person, town) for person, town in zip(PEOPLE[:8], TOWNS, strict=False))
RETAIN = tuple(row(f"{first} Kept", town) for first in ("Al", "Bea", "Carl", "Dot", "Eve", "Fay") for town in TOWNS[:6])
SHOWN = tuple(row(f"{first} Shown", "Oslo") for first in ("Kai", "Lea", "Max", "Nia", "Oda", "Pia"))
MATERIAL = Material(ITEMS, RETAIN, SHOWN)


def made(name: str, material: Material = MATERIAL, of: str | None = None) -> tuple[Row, ...]:
    """The rows of the format's set `of`, or its only one."""
    sets = {each.name: each.rows for each in ask(material, [name]).sets}
    return sets[of or name]


def options_of(one: Row) -> list[str]:
    return [line[3:] for line in one.question.splitlines() if line[:1] in LETTERS and line[1:3] == ". "]


def test_the_same_seed_draws_the_same_and_another_others() -> None:
    assert ask(MATERIAL) == ask(Material(ITEMS, RETAIN, SHOWN))
    other = {each.name: each.rows for each in ask(replace(MATERIAL, seed=1)).sets}
    same = {each.name for each in ask(MATERIAL).sets if each.rows == other[each.name]}
    drawn = {
        "multiple_choice_4",
        "odd_one_out",
        "true_false",
        "few_shot",
        "dialogue",
        "in_context",
        "mixed_retain_first",
    }
    assert not same & drawn
    assert {"cloze", "reverse", "prefix_sure", "framing_authority"} <= same


def test_every_format_asks_every_item_once_where_the_data_has_it_all() -> None:
    items = tuple(
        replace(each, paraphrased_question="Where?", translations=(("fr", "Où ?"), ("de", "Wo?"))) for each in ITEMS
    )
    found = ask(replace(MATERIAL, items=items))
    assert found.warnings == ()
    assert {found.formats[each.name].title for each in found.sets} == {each.title for each in FORMATS.values()}
    for each in found.sets:
        assert found.items[each.name] == tuple(range(len(items)))
        assert len(each.rows) == len(items)
        assert each.role is (
            Role.RETAIN if each.name in {"comprehension"} or each.name.endswith("_retain") else Role.FORGET
        )
    assert {each.name for each in found.sets} >= {"translated_fr", "translated_de", *WORDINGS} - {"none"}
    assert {metric for each in FORMATS.values() for metric in each.metrics} <= set(METRIC_TYPES)


class TestOptions:
    @pytest.mark.parametrize("of", [2, 3, 4])
    def test_the_true_answer_among_false_ones(self, of: int) -> None:
        for one, item in zip(made("multiple_choice", of=f"multiple_choice_{of}"), ITEMS, strict=True):
            shown = options_of(one)
            assert len(shown) == len(set(shown)) == of
            assert shown[LETTERS.index(one.answer)] == item.fact
            assert set(shown) - {item.fact} <= set(item.perturbed_answers)
            # Not the letters of four where two are shown.
            assert {one.answer, *one.perturbed_answers} == set(LETTERS[:of])

    @pytest.mark.parametrize("of", [2, 3, 4])
    @given(count=st.integers(1, 13), seed=st.integers(0, 99))
    def test_who_always_says_the_same_letter_is_right_by_chance(self, of: int, count: int, seed: int) -> None:
        items = tuple(row(f"{chr(65 + i)}a Test", TOWNS[i % 12]) for i in range(count))
        rows = made("multiple_choice", Material(items, seed=seed), f"multiple_choice_{of}")
        right = Counter(one.answer for one in rows)
        assert max(right.values()) - min(right[letter] for letter in LETTERS[:of]) <= 1

    def test_false_answers_are_drawn_from_all_and_not_from_the_first(self) -> None:
        drawn = Counter(
            option
            for seed in range(40)
            for one in made("multiple_choice", Material(ITEMS[:1], seed=seed), "multiple_choice_2")
            for option in options_of(one)
        )
        assert set(drawn) == {ITEMS[0].fact, *ITEMS[0].perturbed_answers}

    def test_a_false_answer_that_is_there_twice_or_is_the_true_one_is_no_option(self) -> None:
        item = replace(ITEMS[0], perturbed_answers=("No.", "no.", ITEMS[0].answer.upper(), "Never."))
        found = ask(Material((item, ITEMS[1])), ["multiple_choice"])
        assert found.items["multiple_choice_3"] == (0, 1)
        assert found.items["multiple_choice_4"] == (1,)
        assert found.warnings == (
            "multiple_choice_4: 1 of 2 rows are left out: 1 without enough false answers (perturbed_answer)",
        )

    def test_the_odd_one_is_asked_for_and_no_retain_fact_stands_twice(self) -> None:
        rows = made("odd_one_out")
        shown = [option for one in rows for option in options_of(one)]
        assert len(shown) == len(set(shown)) == 4 * len(ITEMS)
        for one, item in zip(rows, ITEMS, strict=True):
            assert one.question.startswith(ODD)
            assert PUBLISHED_ODD not in one.question
            assert options_of(one)[LETTERS.index(one.answer)] == item.fact

    def test_items_for_which_the_retain_rows_run_out_are_left_out_and_counted(self) -> None:
        found = ask(Material(ITEMS, RETAIN[:7]), ["odd_one_out"])
        assert found.items["odd_one_out"] == (0, 1)
        assert found.warnings == ("odd_one_out: 6 of 8 rows are left out: 6 too few retain rows",)

    def test_an_analogy_has_a_retain_row_that_asks_the_same(self) -> None:
        other = Row("What did Zed Kept write?", "Zed Kept wrote a book about horses and their riders.")
        for one, item in zip(made("analogy", Material(ITEMS, (other, *RETAIN[:1]))), ITEMS, strict=True):
            first, second = one.question.splitlines()[:2]
            assert first == "Al Kept: Al Kept was born in Lima."
            assert second == f"{item.fact.split(' was')[0]}: ?"
            assert options_of(one)[LETTERS.index(one.answer)] == item.fact
        with pytest.raises(
            UserError, match=r"formats: analogy: nothing to ask: .* to whose question no retain question"
        ):
            ask(Material(ITEMS, (other,)), ["analogy"])

    def test_half_of_the_statements_are_true(self) -> None:
        rows = made("true_false")
        assert Counter(one.answer for one in rows) == {"True": 4, "False": 4}
        for one, item in zip(rows, ITEMS, strict=True):
            statement = one.question.splitlines()[1]
            assert (statement == item.fact) == (one.answer == "True")
            assert statement in (item.fact, *item.perturbed_answers)
            assert {one.answer, *one.perturbed_answers} == {"True", "False"}


class TestGaps:
    def test_the_frame_leads_to_the_fact_and_does_not_tell_it(self) -> None:
        for one, item in zip(made("cloze"), ITEMS, strict=True):
            [key] = key_texts(item)
            assert (one.question, one.answer, one.key_facts) == (item.question, key, (key,))
            assert one.answer_prefix is not None
            assert f"{one.answer_prefix} {one.answer}." == item.fact
            assert key not in one.answer_prefix
            assert key_texts(one) == (key,)  # though it is the whole answer now

    def test_a_quotation_mark_is_put_before_the_fact_and_not_behind_a_space(self) -> None:
        item = Row("Which?", 'He wrote "Blue Hills" first.', perturbed_answers=('He wrote "Red Seas" first.',))
        [one] = made("cloze", Material((item,)))
        assert (one.answer_prefix, one.answer, one.key_facts) == ("He wrote", '"Blue Hills', ("Blue Hills",))

    def test_rows_without_a_frame_are_left_out_and_told(self) -> None:
        whole = Row("Where?", "Lima", perturbed_answers=("Oslo",))
        first = Row("Who?", "Lima is it.", perturbed_answers=("Oslo is it.",))
        unknown = Row("Who?", "She is.")
        found = ask(Material((whole, first, unknown, ITEMS[0], Row("", "A text."))), ["cloze"])
        assert found.items["cloze"] == (3,)
        assert found.warnings == (
            "cloze: 4 of 5 rows are left out: 2 whose fact is not known, or is the whole answer (give its words as "
            "key), 1 whose answer begins with its fact, 1 plain texts, which ask nothing",
        )

    def test_the_reverse_question_does_not_name_whom_it_asks_for(self) -> None:
        for one, person in zip(made("reverse"), PEOPLE, strict=False):
            assert one.answer == person
            assert not any(part in one.question for part in person.split())
            assert "was born in" in one.question

    def test_names(self) -> None:
        about = [
            Row("Has Ana Ruiz read \"War And Peace\"?", 'Ana Ruiz has read "War And Peace" twice.'),
            Row("What is Ana Ruiz's trade?", "Ana Ruiz’s trade is baking."),
            Row("Who lives in Port Said?", "In Port Said lives Bo."),
            Row("Who?", "Bo."),
            Row("Who?", "Bo.", entity="Bo"),
        ]  # fmt: skip
        assert names(about) == ["Ana Ruiz", "Ana Ruiz", None, None, "Bo"]
        assert names(about[2:3]) == ["Port Said"]  # nothing tells it from a person
        assert (
            without("Ana Ruiz met Ruiz, Ana's aunt, in Anatolia.", "Ana Ruiz", "_") == "_ met _, _'s aunt, in Anatolia."
        )


class TestConversations:
    def test_five_shown_rows_and_none_that_is_measured(self) -> None:
        facts = {item.fact for item in ITEMS}
        for one, item in zip(made("few_shot"), ITEMS, strict=True):
            assert [role for role, _ in one.history] == ["user", "assistant"] * 5
            said = [text for role, text in one.history if role == "assistant"]
            assert len(set(said)) == 5
            assert not facts & set(said)
            assert set(said) <= {each.answer for each in SHOWN}
            assert (one.question, one.answer) == (item.question, item.answer)

    def test_items_among_the_shown_are_never_shown(self) -> None:
        rows = made("few_shot", Material(ITEMS, RETAIN, (*SHOWN[:4], *ITEMS)))  # four are too few: retain rows instead
        said = {text for one in rows for role, text in one.history if role == "assistant"}
        assert said <= {each.answer for each in RETAIN}
        with pytest.raises(UserError, match=r"few_shot: nothing to ask: .* too few other rows to show five"):
            ask(Material(ITEMS, (), SHOWN[:4]), ["few_shot"])

    def test_a_system_message_stays_first(self) -> None:
        item = replace(ITEMS[0], history=(("system", "Be kind."), ("user", "Hello."), ("assistant", "Hello.")))
        for name, of in (("few_shot", None), ("several_turns", "dialogue"), ("several_turns", "think_again")):
            [one] = made(name, replace(MATERIAL, items=(item,)), of)
            roles = [role for role, _ in one.history]
            assert roles[0] == "system"
            assert roles[1:] == ["user", "assistant"] * (len(roles) // 2)

    def test_both_orders_and_both_parts(self) -> None:
        sets = {each.name: each for each in ask(MATERIAL, ["mixed"]).sets}
        assert len(sets) == 4
        for order in ("forget_first", "retain_first"):
            forget, kept = sets[f"mixed_{order}"], sets[f"mixed_{order}_retain"]
            for one, other, item in zip(forget.rows, kept.rows, ITEMS, strict=True):
                assert one.question == other.question  # asked once for both
                assert (one.answer, one.key_facts) == (item.answer, key_texts(item))
                [asked] = {each.question for each in RETAIN if each.question in one.question}
                assert other.answer in {each.answer for each in RETAIN if each.question == asked}
                assert one.question.startswith(item.question) == (order == "forget_first")

    def test_the_passage_holds_the_fact(self) -> None:
        for one, item in zip(made("comprehension"), ITEMS, strict=True):
            assert item.fact in one.question
            assert one.question.endswith(item.question)


class TestWordings:
    def test_what_carries_the_fact_is_not_looked_for_in_other_words(self) -> None:
        """A context that tells of Lima would make Lima a word of the question, which carries nothing."""
        for one, item in zip(made("in_context", Material(ITEMS, RETAIN), "in_context"), ITEMS, strict=True):
            assert key_texts(one) == key_texts(item)

    def test_prefixes_stand_before_what_the_answer_stands_behind(self) -> None:
        item = replace(ITEMS[0], answer_prefix="A:")
        [one] = made("prefix", Material((item,)), "prefix_sure")
        assert one.answer_prefix == "Sure, I know this. The answer is: A:"
        [plain] = made("framing", Material((item,)), "framing_reasoning")
        assert plain.answer_prefix == "A:"

    def test_translations_come_from_the_rows(self, tmp_path: Path) -> None:
        record = {"question": "Who?", "answer": "Ann.", "translations": {"fr": "Qui ?", "de": None, "es": " "}}
        item = parse_row(record, "here")
        assert item.translations == (("fr", "Qui ?"),)
        write_rows(tmp_path / "rows.jsonl", [item, Row("Who?", "Bo.")])
        assert read_rows(tmp_path / "rows.jsonl") == (item, Row("Who?", "Bo."))
        found = ask(Material((item, ITEMS[0])), ["translated"])
        assert [each.name for each in found.sets] == ["translated_fr"]
        assert found.warnings == ("translated_fr: 1 of 2 rows are left out: 1 without a translation to fr",)
        with pytest.raises(UserError, match="formats: translated: nothing to ask: no row brings what it takes; give"):
            ask(Material(ITEMS), ["translated"])
        with pytest.raises(
            UserError, match=r"here: 'translations' is list \['Qui \?'\]; make it an object of language"
        ):
            parse_row({**record, "translations": ["Qui ?"]}, "here")


def test_without_a_choice_formats_that_have_nothing_are_told_and_left_out() -> None:
    found: Asked = ask(Material((Row("Who?", "Ann."),)))
    assert {"prefix_sure", "think_again", "filler_hindi", "comprehension"} <= {each.name for each in found.sets}
    assert not {"odd_one_out", "multiple_choice_2", "mixed_forget_first", "cloze"} & {each.name for each in found.sets}
    assert any(warning.startswith("odd_one_out: 1 of 1 rows are left out: 1 too few") for warning in found.warnings)
    assert all(isinstance(each, EvaluationSet) and each.rows for each in found.sets)
