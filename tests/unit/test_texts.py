"""Every kind of text says all that there is to know of it, ours and others'."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_documents import code_blocks

from obliviate import plugins
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Row
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import GA, GD, NPO, Loss, Needs, Pass, Positions, Scores, Text, check_texts, reads
from obliviate.methods.texts import Sets, mismatch
from obliviate.rows_needed import check_rows
from obliviate.scoring import Stat
from training import FORGET, job, losses

OURS = {name: each for name, each in vars(Pass).items() if isinstance(each, Text)}
SETS = Sets(
    (Row("f0?", "a0", entity="Ada", alternatives=("b", "c")), Row("f1?", "a1", entity="Bob", refusals=("no", "never"))),
    (Row("r0?", "k0"), Row("r1?", "k1"), Row("r2?", "k2")),
    ("sorry", "pass"),
    (Row("w0?", "v0"), Row("w1?", "v1")),
)
FIRST = Item(0, retain=2, refusal=1, retain_refusal=0, mismatch=1, alternative=0.6, world=1)
SAID = {  # of the first item: question and answer
    "forget": ("f0?", "a0"),
    "forget_idk": ("f0?", "pass"),
    "forget_mismatch": ("f0?", "k1"),
    "forget_alternative": ("f0?", "c"),
    "forget_shuffled": ("f0?", "a1"),
    "forget_other": ("f1?", "a1"),
    "forget_marked_idk": ("<<UNL>>Ada<</UNL>> f0?", "pass"),
    "retain": ("r2?", "k2"),
    "retain_idk": ("r2?", "sorry"),
    "retain_marked": ("<<UNL>>Ada<</UNL>> r2?", "k2"),
    "world": ("w1?", "v1"),
}


@pytest.mark.parametrize(("name", "each"), OURS.items(), ids=str)
def test_a_text_by_hand(name: str, each: Text) -> None:
    """Its name is that which methods use, and what is said does not depend on whose pass it is."""
    assert str(each) == name.lower()
    assert each.said(SETS, FIRST)[:2] == SAID[each.name]
    assert each.lack(SETS) is None
    assert each.of_reference == name.startswith("REFERENCE_")
    assert {each.text, each.reference} == {OURS[each.name.upper()], OURS[each.name.upper()].reference}


def test_a_rows_own_refusals_come_first() -> None:
    assert Pass.FORGET_IDK.said(SETS, Item(1, alternative=0.6))[1] == "never"
    assert Pass.RETAIN_IDK.said(SETS, Item(1, alternative=0.6))[1] == "sorry"


@pytest.mark.parametrize("each", OURS.values(), ids=str)
def test_a_sample_has_a_text_of_each_row_with_its_own_answer(each: Text) -> None:
    """Without refusals and alternatives, which may not be there when costs are estimated."""
    sets = replace(SETS, refusals=())
    rows = sets.rows(each.of)
    assert [answer for _, answer, *_ in each.sample(sets, 9)] == [row.answer for row in rows]
    assert len(each.sample(sets, 1)) == 1


def test_a_mark_in_a_sample_goes_round_the_forget_rows() -> None:
    found = Pass.RETAIN_MARKED.sample(replace(SETS, forget=SETS.forget[:1]), 9)
    assert [question for question, *_ in found] == [f"<<UNL>>Ada<</UNL>> r{number}?" for number in range(3)]


@pytest.mark.parametrize(
    ("anchor", "alternative", "answer"),
    [(1, 0.0, "a2"), (1, 0.34, "a3"), (1, 0.67, "a0"), (3, 0.99, "a2"), (0, 0.99, "a3")],
)
def test_a_shuffled_answer_is_any_but_the_rows_own(anchor: int, alternative: float, answer: str) -> None:
    """Of four rows the three behind it, each by a third of [0, 1)."""
    sets = Sets(tuple(Row(f"f{number}?", f"a{number}") for number in range(4)))
    assert Pass.FORGET_SHUFFLED.said(sets, Item(anchor, alternative=alternative))[:2] == (f"f{anchor}?", answer)


PLAIN = replace(SETS, forget=(SETS.forget[0], Row("", "A text.")), retain=(Row("", "B."),), world=(Row("", "C."),))
OTHERWISE = "is a plain text, which asks nothing that could be answered otherwise; give it a question, or take "


@pytest.mark.parametrize(
    ("text", "sets", "lack"),
    [
        (Pass.FORGET_IDK, PLAIN, f"forget row 2 {OTHERWISE}a method of texts, such as npo, me or rmu"),
        (Pass.RETAIN_MARKED, PLAIN, f"retain row 1 {OTHERWISE}a regularizer of texts: gd or kl"),
        (Text("own", "world", answer=mismatch), PLAIN, f"world row 1 {OTHERWISE}another method"),
        (Pass.RETAIN, PLAIN, None),
        (Pass.FORGET, PLAIN, None),
        (Pass.FORGET_ALTERNATIVE, PLAIN, None),
        (Pass.FORGET_SHUFFLED, replace(SETS, forget=SETS.forget[:1]),
         "answers forget questions with other rows' answers; give two rows"),
        (Pass.FORGET_MARKED_IDK, replace(SETS, forget=(SETS.forget[0], Row("f1?", "a1"))),
         "forget row 2 ('f1?') has no 'entity', which the prompt marks; give every forget row the name of what it is "
         "about under that key"),
    ],
)  # fmt: skip
def test_what_rows_lack(text: Text, sets: Sets, lack: str | None) -> None:
    assert text.lack(sets) == lack


class Own(GA):
    """Of a text that the test gives it."""

    type: str = "own"  # type: ignore[assignment]
    text: Any

    @property
    def needs(self) -> Needs:
        return {each: {Stat.LOGP: Positions.ANSWER} for each in (self.text, self.text.reference)}

    def loss(self, scores: Scores) -> Loss:
        """The rise over the starting model's, nats: 0 before the first step."""
        return Loss.mean(scores[self.text].logp_B - scores[self.text.reference].logp_B)


def test_what_a_text_needs_is_asked_of_the_rows() -> None:
    text = Text("own", "forget", answer=mismatch, also="retain", lacks=lambda sets: f"has {len(sets.forget)} rows")
    term = Own(text=text)
    assert reads([term], "retain")
    assert not reads([term], "world")
    with pytest.raises(UserError, match=r"^method: OWN: has 2 rows"):
        check_rows([term], SETS.forget, SETS.retain, needs_retain=True)
    with pytest.raises(UserError, match=r"^method: OWN: forget row 1 is a plain text.* take a method of texts"):
        check_rows([term], [Row("", "A text.")], SETS.retain, needs_retain=True)


def test_two_texts_of_one_name_would_be_taken_for_each_other() -> None:
    check_texts([Own(text=Pass.FORGET), NPO()])
    with pytest.raises(ValueError, match="texts called forget; rename one"):
        check_texts([Own(text=Text("forget", "retain")), NPO()])


@pytest.mark.usefixtures("process_group")
def test_a_text_and_the_starting_models_pass_over_it_are_trained_on(tiny: Path, tmp_path: Path) -> None:
    terms = (Own(text=Text("own", "forget", answer=mismatch, also="retain")), GD())
    first, *_ = losses(job(tiny, tmp_path, terms, epochs=1))
    assert first == pytest.approx(0, abs=1e-5)


@pytest.mark.usefixtures("process_group")
def test_the_documents_text_is_trained_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a file of somebody else's that a config names: as gradient ascent on rows that ask so."""
    monkeypatch.setattr(plugins, "_modules", {})
    monkeypatch.syspath_prepend(tmp_path)
    path = "my_package/otherwise.py"
    (tmp_path / "my_package").mkdir()
    (tmp_path / path).write_text(code_blocks("docs/adding-a-method.md", "python")[path])
    method = "my_package.otherwise.Otherwise+gd"
    config = build(
        UnlearnRun, {"model": {"source": "x"}, "data": {"type": "fictitious"}, "method": method}, where="test"
    )
    run = job(tiny, tmp_path / "otherwise", config.terms, epochs=1)
    rows = tuple(replace(row, paraphrased_question=f"Tell me: {row.question}") for row in FORGET)
    found = losses(replace(run, forget=rows))
    asked = tuple(replace(row, question=f"Tell me: {row.question}") for row in FORGET)
    assert found == losses(replace(run, forget=asked, terms=(GA(), GD()), directory=tmp_path / "ga"))
