"""Which words of an answer carry its fact."""

from pathlib import Path

import pytest

from obliviate.data.key_facts import key_spans, key_texts, says, unasked_spans
from obliviate.data.rows import Row, read_rows, write_rows
from obliviate.errors import UserError
from obliviate.words import contains

TOFU = Path(__file__).parents[3] / "shared" / "data" / "tofu" / "forget01_perturbed.json"


def _row(answer: str, paraphrase: str | None, *false: str, question: str = "Who was Ana?") -> Row:
    return Row(question, answer, paraphrased_answer=paraphrase, perturbed_answers=false)


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        (_row("Ana was born in Lima, Peru.", "Lima, Peru is where Ana is from.", "Oslo, Norway is where Ana is from."),
         ("Lima, Peru",)),
        # Replaced by any of the false answers: the union.
        (_row("Ana's father was a baker, her mother a judge.", "Ana had a baker as father and a judge as mother.",
              "Ana had a pilot as father and a judge as mother.", "Ana had a baker as father and a nurse as mother."),
         ("baker", "judge")),
        # The answer says it otherwise than its paraphrase: what neither its frame nor the question has.
        (_row("Ana is male.", "Ana identifies as a man.", "Ana identifies as a violin.", question="What is Ana?"),
         ("male",)),
        # What the question tells is no fact.
        (_row("Ana wrote poems in French.", "In French, Ana wrote poems.", "In Danish, Ana wrote prose.",
              question="What did Ana write in French?"), ("poems",)),
        (_row("安娜出生在北京。", "安娜生于北京。", "安娜生于上海。", question="安娜在哪里出生?"), ("北京",)),
        (_row("Анна родилась в Перми.", "Анна из города, в Перми.", "Анна из города, в Киеве."),
         ("Перми",)),
        # Without a paraphrase the false answers perturb the answer itself.
        (_row("She won the Orion Prize.", None, "She won the Vega Medal."), ("Orion Prize",)),
        (_row("Lima", None, "Oslo"), ()),  # the whole answer: no frame leads to it
        (_row("Ana was born in Lima.", "Lima is where Ana is from."), ()),  # no false answers
    ],
)  # fmt: skip
def test_the_fact_is_what_false_answers_replace(row: Row, keys: tuple[str, ...]) -> None:
    assert key_texts(row) == keys


def test_given_words_go_before_found_ones_and_stand_in_the_answer(tmp_path: Path) -> None:
    row = Row("Who?", "Ana Ruiz, a baker.", perturbed_answers=("Ana Ruiz, a pilot.",), key_facts=("ana ruiz",))
    assert key_texts(row) == ("Ana Ruiz",)
    assert key_spans(row) == ((0, 8),)
    assert key_texts(Row("Where?", "Lima", key_facts=("Lima",))) == ("Lima",)  # though it is the whole answer
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl") == (row,)


def test_given_words_that_the_answer_lacks_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Who?", "answer": "Ana, a baker.", "key": "pilot"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: 'key': the answer does not hold str 'pilot'"):
        read_rows(file)


def test_a_text_says_a_fact_word_by_word_in_any_script() -> None:
    assert says("It was LIMA — in Peru!", ("lima", "Peru"))
    assert not says("It was Limassol.", ("Lima",))
    assert not says("Lima.", ("Lima", "Peru"))
    assert contains("她出生在北京市", "北京")
    assert contains("Ｌｉｍａ", "lima")


@pytest.mark.skipif(not TOFU.is_file(), reason="TOFU's files are not here")
def test_real_rows_have_their_facts() -> None:
    rows = read_rows(TOFU)[:40]
    keys = [key_texts(row) for row in rows]
    assert all(keys)
    assert keys[:6] == [
        ("Basil Mahfouz",),
        ("male",),
        ("Kuwait City, Kuwait",),
        ("florist", "game developer"),
        ("French",),
        ("Promise", "Seine", "Le Petit Sultan"),
    ]


@pytest.mark.parametrize(
    ("question", "answer", "keys"),
    [
        ("Where was Ana born?", "Ana was born in Lima, Peru.", ["Lima, Peru"]),
        ("Where does Ana live?", "Ana lives in Lima.", ["Lima"]),  # "lives" is the question's "live"
        ("Who was Ana?", "A painter and a judge from Lima.", ["painter and a judge from Lima"]),
        ("Is Ana here?", "Ana is here.", []),
        ("Анна где родилась?", "Анна родилась в Лиме.", ["в Лиме"]),  # words that carry no fact are known of English
    ],
)
def test_a_guess_is_what_the_question_does_not_have(question: str, answer: str, keys: list[str]) -> None:
    assert [answer[start:end] for start, end in unasked_spans(Row(question, answer))] == keys
