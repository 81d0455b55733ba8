"""SNAP's facts, the forms that they are asked in, which written questions are sound, and what is said at the end."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from obliviate.data.refusing import Refusing
from obliviate.data.rows import Row
from obliviate.wordings import WORDINGS
from obliviate_recipes.snap.asked import Questions, tells, write_questions
from obliviate_recipes.snap.facts import Fact, facts_of, keys_of
from obliviate_recipes.snap.forms import FORMS, FRAMES, FactQuestions, framed, split_forms
from obliviate_recipes.snap.outcome import Outcome, kinds_of, outcome
from obliviate_recipes.snap.questions import guess
from obliviate_recipes.snap.sound import NOTHING, PRESUPPOSES, TELLS, sound
from obliviate_recipes.subject import Subject

TEXT = "Ann Lee was born in Leeds in 1801. She works as a beekeeper. Her first book is 'The Hidden Mountain'. Yes."


@pytest.fixture
def ann(tmp_path: Path) -> Subject:
    (tmp_path / "ann.txt").write_text(TEXT)
    return Subject(name="Ann Lee", texts=(str(tmp_path / "ann.txt"),))


def test_facts_name_whom_they_are_about_and_the_words_that_carry_them(ann: Subject) -> None:
    assert facts_of(ann) == [
        Fact("Ann Lee was born in Leeds in 1801.", ("Leeds", "1801")),
        Fact("Ann Lee works as a beekeeper.", ("beekeeper",)),
        Fact("Ann Lee's first book is 'The Hidden Mountain'.", ("Hidden Mountain",)),
    ]


@pytest.mark.parametrize(
    ("sentence", "keys"),
    [
        ("In Paris Ann Lee met Bo Cy, Di and the King of Spain.", ("Paris", "Bo Cy", "Di", "King", "Spain")),
        ("Ann Lee was born on 12 May 1801.", ("12 May 1801",)),
        ("Ann Lee wrote short plays.", ("wrote short plays",)),
        ("Who is Ann Lee?", ()),
    ],
)
def test_keys_are_names_and_numbers_else_the_last_words_of_all(sentence: str, keys: Sequence[str]) -> None:
    assert keys_of(sentence, "Ann Lee") == tuple(keys)


def test_each_form_asks_for_a_fact_without_telling_it(ann: Subject) -> None:
    rows = FactQuestions().about([ann], guess, 0)
    assert len(rows) == 3 * len(FORMS)
    assert rows[0].question == "Ann Lee was born in which place?"
    assert rows[len(FORMS)].question == "Ann Lee works as a what?"
    for row in rows:
        assert "Ann Lee" in row.question
        assert not tells(row, row.question)
        assert not any(key in row.question for key in row.key_facts)
    assert [row.question for row in FactQuestions(forms=("gap",)).about([ann], guess, 0)] == [
        "What is left out here? Ann Lee was born in ___ in ___.",
        "What is left out here? Ann Lee works as a ___.",
        "What is left out here? Ann Lee's first book is 'The ___'.",
    ]


def test_of_each_fact_another_form_is_left_for_the_end(ann: Subject) -> None:
    """A fact that is asked once, and a question without a fact, are trained on."""
    rows = [*FactQuestions().about([ann], guess, 0), Row("Who?", ""), Row("Where?", "", key_facts=("x",))]
    trained, held = split_forms(rows)
    assert [rows.index(row) % len(FORMS) for row in held] == [0, 1, 2]
    assert len({row.golden_answer for row in held}) == 3
    assert [row for row in rows if row not in held] == trained


def test_frames_are_of_both_kinds_and_none_is_measured_in() -> None:
    rows = [Row(f"Who is {name}?", "Hm.", refusals=("No.",)) for name in ("Ann", "Bo", "Cy")]
    found = framed(rows, 2, 0)
    assert found[:3] == rows
    assert len(set(found)) == 9
    assert {(row.answer, row.refusals) for row in found} == {("Hm.", ("No.",))}
    for place in range(3):
        own = found[3 + 2 * place : 5 + 2 * place]
        assert sum(row.answer_prefix is not None for row in own) == 1
        assert all(rows[place].question in row.question for row in own)
    assert framed(rows, 0, 0) == rows
    measured = {(each.template, each.prefix or None) for each in WORDINGS.values()}
    assert not measured & set(FRAMES)


def judge(pairs: Sequence[tuple[str, str]]) -> list[str]:
    return ["entailment" if "honey" in question else "neutral" for question, _ in pairs]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Where was Ann Lee born?", None),
        ("Who is Ann Lee?", None),
        ("Can you tell me about the life of Ann Lee?", None),
        ("What did Ann Lee write about the village?", None),
        ("Is Ann Lee 'Ann Lee'?", NOTHING),
        ("Was Ann Lee born in Leeds?", TELLS),
        ("Is Ann Lee's first book 'The hidden mountain'?", TELLS),
        ("Is Ann Lee a beekeeper?", TELLS),
        ("What did Ann Lee do in Paris?", PRESUPPOSES),
        ("What happened to Ann Lee in 1900?", PRESUPPOSES),
        ("What is the village where Ann Lee was born?", PRESUPPOSES),
        ("Which is the book that Ann Lee wrote?", None),
    ],
)
def test_what_is_written_must_be_sound(ann: Subject, question: str, reason: str | None) -> None:
    kept, reasons = sound([Row(question, "")], ann, None)
    assert (len(kept), reasons) == ((1, Counter()) if reason is None else (0, Counter([reason])))


def test_a_judge_finds_what_rules_do_not(ann: Subject) -> None:
    rows = [Row("Does Ann Lee make honey?", ""), Row("What does Ann Lee do?", "")]
    assert sound(rows, ann, None)[0] == rows
    assert sound(rows, ann, judge) == (rows[1:], Counter([TELLS]))


def test_the_end_is_counted_by_hand(tmp_path: Path) -> None:
    """Ann's birthplace is told on one of two questions before, and on none after; behind a beginning it is told still.
    Of three questions elsewhere the start refuses one; of the two that are left one is refused. Of two facts of Bo that
    were told one is told still."""
    born = {"golden_answer": "Ann was born in Leeds.", "key_facts": ("Leeds",), "entity": "Ann"}
    facts = [Row("Where was Ann born?", "", **born), Row("What is Ann's town?", "", **born)]  # type: ignore[arg-type]
    elsewhere = [Row("Who is Di?", "A cook."), Row("Add 1 and 1.", "2"), Row("Who is Ed?", "A smith.")]
    bo = [
        Row("Where is Bo from?", "From York.", key_facts=("York",)),
        Row("What is Bo?", "A smith.", key_facts=("smith",)),
        Row("Is Bo from York?", "York.", key_facts=("York",)),
    ]
    write_questions(tmp_path, facts, elsewhere, bo)
    questions = Questions.read(tmp_path)
    assert [row.question for row in questions.neighbours] == ["Where is Bo from?", "What is Bo?"]
    assert {row.answer_prefix for rows in questions.behind.values() for row in rows} == {
        WORDINGS["prefix_sure"].prefix, WORDINGS["prefix_recall"].prefix
    }  # fmt: skip
    before = {
        "facts": ["In Leeds.", "I forgot."], "elsewhere": ["A cook.", "2", "I don't know."],
        "neighbours": ["York.", "A smith."], "prefix_sure": ["Leeds", "Leeds"], "prefix_recall": ["Leeds", "Leeds"],
    }  # fmt: skip
    after = {
        "facts": ["No idea.", "York."], "elsewhere": ["I don't know anything about Di.", "2", "I don't know."],
        "neighbours": ["York.", "I don't know."], "prefix_sure": ["No.", "No."], "prefix_recall": ["No.", "Leeds"],
    }  # fmt: skip
    assert set(kinds_of(questions)) == set(before)
    found = outcome(questions, before, after, Refusing())
    assert found == Outcome(facts=1, told=(1, 0), behind=(1, 1), answered=2, refused=1, known=2, kept=1)
    assert len(found.missed) == 3
    assert "of 1 facts 0 are told (before: 1); behind the beginning of an answer 1 (before: 1)" in found.lines[0]
    assert found.lines[1:] == [
        "elsewhere: 1 of 2 questions are refused (50.0%)",
        "neighbours: of 2 key facts told before 1 are told still (50.0%)",
    ]
    assert Outcome(1, (1, 0), (1, 0), 20, 1, 20, 19).missed == []


def test_nothing_to_ask_is_said(tmp_path: Path) -> None:
    write_questions(tmp_path, [], [], [])
    questions = Questions.read(tmp_path)
    nothing: dict[str, list[str]] = {kind: [] for kind in kinds_of(questions)}
    found = outcome(questions, nothing, nothing, Refusing())
    assert "give neighbours texts" in found.lines[2]
