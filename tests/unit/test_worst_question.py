"""Two wordings of a question, and the worse of the two, item by item."""

from dataclasses import replace

import pytest

from measured import record
from obliviate.data.key_facts import key_texts
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate_eval.asked import worded
from obliviate_eval.forget_quality import forget_quality
from obliviate_eval.metrics import MiaLoss, Rouge, WorstQuestion
from obliviate_eval.metrics.leak_at_k import LeakAtK
from obliviate_eval.records import Probe, Record
from obliviate_eval.summary import draw

ROWS = (Row("Who?", "Ann.", paraphrased_question="Which person?"), Row("Where?", "Here."), Row("", "A text."))
CORPUS = Corpus(
    ROWS, (), (EvaluationSet("forget", Role.FORGET, ROWS), EvaluationSet("retain", Role.RETAIN, ROWS[:1])), ("old",)
)
SAID = "the cat sat"  # is the reference of every record here


def asked(*generations: str | None, name: str = "forget", role: Role = Role.FORGET) -> list[Record]:
    return [record(role, set=name, index=i, generation=said) for i, said in enumerate(generations)]


def test_questions_in_other_words() -> None:
    found = worded(CORPUS, "paraphrased")
    assert [[row.question for row in each.rows] for each in found.evaluation] == [
        ["Which person?", "Where?", ""], ["Which person?"],
    ]  # fmt: skip
    assert (found.forget, found.warnings[0]) == (ROWS, "old")
    [warning] = found.warnings[1:]
    assert warning.startswith("evaluation.questions: paraphrased: 1 of 3 rows of the set forget have no paraphrased_q")
    assert found.evaluation_content != CORPUS.evaluation_content
    assert worded(CORPUS, "given") is CORPUS


def test_what_carries_the_fact_is_the_same_in_both_wordings() -> None:
    """Words of a question carry no fact: the other question must not take them away."""
    false, other = ("Ann is from Oslo.",), "Is Ann from Lima?"
    row = Row("Where is Ann from?", "Ann is from Lima.", None, false, other)
    [of_set] = worded(Corpus((row,), (), (EvaluationSet("forget", Role.FORGET, (row,)),)), "paraphrased").evaluation
    [one] = of_set.rows
    assert (one.question, key_texts(one)) == (other, ("Lima",))
    assert key_texts(replace(row, question=other)) == ()


def test_both_wordings_of_what_is_forgotten_have_the_same_items() -> None:
    found = worded(CORPUS, "both")
    assert [each.name for each in found.evaluation] == ["forget", "forget_paraphrased", "retain"]
    first, second, kept = found.evaluation
    assert (first, kept) == CORPUS.evaluation
    assert [row.answer for row in second.rows] == [row.answer for row in first.rows]
    assert [row.question for row in second.rows] == ["Which person?", "Where?", ""]


def test_an_item_is_known_that_either_wording_brings_out() -> None:
    given, other = asked(SAID, "no", "no", "the cat"), asked("no", SAID, "no", "no", name="forget_paraphrased")
    found = WorstQuestion(of=Rouge()).estimate(draw([*given, *other], 200, 0))
    assert found.value == pytest.approx((1 + 1 + 0 + 2 / 3) / 4)
    assert (found.scored, found.unscored) == (4, 0)
    swapped = [replace(r, set="forget" if r.set != "forget" else "forget_paraphrased") for r in (*given, *other)]
    assert WorstQuestion(of=Rouge()).estimate(draw(swapped, 200, 0)).value == found.value
    # Never below either wording's own mean.
    assert found.value is not None
    assert found.value >= max(sum(Rouge().score(r) or 0 for r in each) / 4 for each in (given, other))


def test_what_one_wording_leaves_open_is_unscored() -> None:
    records = [*asked("no", SAID), *asked(None, None, name="forget_paraphrased")]
    found = WorstQuestion(of=Rouge()).estimate(draw(records, 200, 0))
    assert (found.value, found.scored, found.unscored) == (None, 0, 2)


def test_without_a_second_wording_there_is_no_figure() -> None:
    kept = asked(SAID, name="retain", role=Role.RETAIN) + asked(SAID, name="retain_paraphrased", role=Role.RETAIN)
    found = WorstQuestion(of=Rouge()).estimate(draw([*asked(SAID, SAID), *kept], 200, 0))
    assert (found.value, found.unscored) == (None, 2)
    assert WorstQuestion(of=Rouge()).estimate({}).value is None


def test_it_needs_what_its_metric_needs() -> None:
    assert WorstQuestion(of=LeakAtK(by="entailment")).probes == {Probe.SAMPLES, Probe.SAMPLE_ENTAILMENT}
    assert WorstQuestion().asks("forget", Role.FORGET)
    assert not WorstQuestion().asks("retain", Role.RETAIN)


def test_an_item_that_is_asked_twice_is_no_second_item_of_a_test() -> None:
    assert MiaLoss().asks("forget", Role.FORGET)
    assert not MiaLoss().asks("forget_paraphrased", Role.FORGET)
    assert MiaLoss(forget_set="forget_paraphrased").asks("forget_paraphrased", Role.FORGET)
    once = asked(SAID, SAID)
    assert forget_quality([*once, *asked(SAID, name="forget_paraphrased")], once) is None  # and no error of other items
