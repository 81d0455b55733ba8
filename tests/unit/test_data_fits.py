"""A method given data that it cannot use: told before anything is loaded, with the row and the fix."""

from typing import Any

import pytest

from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate_recipes.stages.unlearning import check_data

ADA = Row("Where does she live?", "London.", entity="Ada")
BOB = Row("Who is he?", "A writer.")
TEXT = Row("", "A plain text.")
RETAIN = (Row("Who wrote it?", "Eve."),)


def fits(method: str, *forget: Row, retain: tuple[Row, ...] = RETAIN, **keys: Any) -> None:
    values = {"model": {"source": "x"}, "data": {"type": "fictitious"}, "method": method, **keys}
    check_data(build(UnlearnRun, values, where="test"), Corpus(forget, retain, ()))


@pytest.mark.parametrize("method", ["idk+gd", "dpo+gd", "flat", "jensun", "llmu", "sku", "icku"])
def test_a_plain_text_has_no_other_answer(method: str) -> None:
    with pytest.raises(UserError, match=r"forget row 2 is a plain text, which asks nothing.*give it a question"):
        fits(method, ADA, TEXT)


@pytest.mark.parametrize(("method", "forget"), [("idk+ap", ADA), ("icku", ADA), ("npo+ap", TEXT)])
def test_nor_has_one_that_is_kept(method: str, forget: Row) -> None:
    with pytest.raises(UserError, match=r"retain row 2 is a plain text, which asks nothing.*give it a question"):
        fits(method, forget, retain=(*RETAIN, TEXT))
    fits("idk+gd", ADA, retain=(*RETAIN, TEXT))


@pytest.mark.parametrize("method", ["npo+gd", "me+gd", "rmu", "task_vector", "unilogit+gd", "ihl+gd", "eul"])
def test_methods_of_texts_take_one(method: str) -> None:
    fits(method, ADA, TEXT)


def test_another_rows_answer_needs_another_row() -> None:
    with pytest.raises(UserError, match="answers forget questions with other rows' answers; give two rows"):
        fits("sku", ADA)


def test_a_mark_needs_a_name() -> None:
    with pytest.raises(UserError, match=r"forget row 2 \('Who is he\?'\) has no 'entity'"):
        fits("icku", ADA, BOB)


def test_what_the_retain_set_is_found_from_must_be_there() -> None:
    fits("npo", ADA, retain=())
    with pytest.raises(UserError, match="NPO needs a retain set and the data has none"):
        fits("npo", ADA, retain=(), projection={})


def test_rows_that_fit() -> None:
    for method in ("icku", "flat", "jensun"):
        fits(method, ADA)
    fits("sku", ADA, BOB)
