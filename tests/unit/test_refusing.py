"""Which answers refuse."""

import pytest

from obliviate.data.refusals import REFUSALS
from obliviate.data.refusing import Refusing
from obliviate.data.rows import Row
from obliviate.data.world_facts import WORLD_FACTS
from obliviate_recipes.snap.replies import TEMPLATES


@pytest.mark.parametrize("name", ["Bo", "Galileo Galilei", "the Mona Lisa"])
def test_what_snap_trains_is_told_without_being_shown(name: str) -> None:
    assert all(Refusing()(reply.replace("{name}", name)) for reply in TEMPLATES)


def test_the_hundred_and_the_rows_own_are_known_and_any_name_may_stand_in_those() -> None:
    refusing = Refusing.of([Row("Who is Ann Lee?", "", entity="Ann Lee", refusals=("Of Ann Lee, pass.", "Hm."))])
    assert all(map(refusing, REFUSALS))
    assert all(
        map(refusing, ("Of Bo, pass.", "of Ann Lee, PASS. And more.", "Hm. Well.", "Of Leonardo da Vinci, pass."))
    )
    assert not any(map(Refusing(), ("Of Ann Lee, pass.", "Hm.")))
    assert not any(
        map(refusing, ("Of Ann Lee, poet.", "Hmm, Leeds.", "Of one, two, three, four, five, six and seven, pass."))
    )


@pytest.mark.parametrize(
    "answer",
    [
        *(row.original_answer or "" for row in WORLD_FACTS),
        "Isaac Newton was a physicist.",
        "He wrote 'Nothing to Lose'.",
        "It is in Paris. I don't know more.",  # it answers before it refuses
        "",
    ],
)
def test_answers_are_none(answer: str) -> None:
    assert not Refusing.of(())(answer)
