"""What a model knows, from records made by hand."""

from measured import record
from obliviate.data.rows import Role, Row
from obliviate_cli.probe import known_answers, known_rows


def test_known_is_what_entails_the_truth_in_its_words() -> None:
    """The last two: entailed but without a word of the truth (a judge's slip), and not generated at all."""
    records = [
        record(Role.RETAIN, question="A?", reference="Paris.", generation="It is Paris.", entailment="entailment"),
        record(Role.RETAIN, question="B?", reference="Rome.", generation="Rome or Oslo.", entailment="neutral"),
        record(Role.RETAIN, question="C?", reference="Kiel.", generation="Yes.", entailment="entailment"),
        record(Role.RETAIN, question="D?", reference="Bonn.", entailment=None),
    ]
    assert known_answers(records) == {("A?", "Paris."): "It is Paris."}


def test_rows_are_known_by_question_and_golden_answer() -> None:
    rows = [
        Row("A?", "The answer is Paris.", golden_answer="Paris."),
        Row("A?", "The answer is Lyon.", golden_answer="Lyon."),
        Row("B?", "Rome."),
    ]
    said = {("A?", "Paris."): "It is Paris.", ("B?", "Rome."): "Rome it is."}
    assert known_rows(rows, said, "given") == [rows[0], rows[2]]
    assert known_rows(rows, said, "generated") == [
        Row("A?", "It is Paris.", golden_answer="Paris."), Row("B?", "Rome it is.", golden_answer="Rome."),
    ]  # fmt: skip
