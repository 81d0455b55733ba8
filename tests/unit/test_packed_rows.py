"""Rows in one block of memory: the same rows, sent without being made into objects, and read when they are met."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.data.packed import PackedRows, packed
from obliviate.data.rows import Corpus, Row
from obliviate.errors import UserError
from obliviate.methods import GD, ME
from obliviate.runs import content_hash, hash_of_lists
from obliviate.train import batch, loop
from obliviate.train.launch import packed_job
from obliviate.train.loop import train
from tiny import tiny_model_folder
from training import job

WORDS = st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()) and text.isprintable())
ROWS = st.lists(
    st.builds(
        Row, question=WORDS, answer=WORDS, entity=st.none() | WORDS, aliases=st.tuples(WORDS) | st.just(()),
        history=st.just((("user", "Hello"), ("assistant", "Hi"))) | st.just(()),
        translations=st.just((("de", "Wer?"),)),
    ),
    max_size=5,
)  # fmt: skip


@given(ROWS)
def test_they_are_the_rows_that_were_packed(rows: list[Row]) -> None:
    found = PackedRows.of(rows)
    assert list(found) == rows
    assert [found[index] for index in range(-len(rows), len(rows))] == rows * 2
    assert list(found[1:3]) == rows[1:3]
    sent = pickle.loads(pickle.dumps(found, 5))
    assert sent == found
    assert hash(sent) == hash(found)


def test_few_rows_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple(Row(f"{number}?", "Yes.") for number in range(3))
    assert packed(rows) is rows
    monkeypatch.setattr("obliviate.data.packed.PACKED_FROM", 3)
    assert isinstance(packed(rows), PackedRows)


def test_sent_they_are_a_buffer_of_their_own() -> None:
    """Which Ray keeps once a node, and maps into each worker's memory."""
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(
        PackedRows.of(Row(f"{number}?", "Yes. " * 20) for number in range(2000)), 5, buffer_callback=buffers.append
    )
    assert len(small) < 2000
    assert sum(buffer.raw().nbytes for buffer in buffers) > 200_000


@given(st.lists(st.lists(st.dictionaries(WORDS, WORDS | st.none()), max_size=3), max_size=3))
def test_a_hash_by_pieces_is_the_hash_of_the_whole(lists: list[list[dict[str, str | None]]]) -> None:
    assert hash_of_lists(iter(lists)) == content_hash(lists)


def test_the_content_of_a_corpus_is_what_it_was() -> None:
    """Runs of before are found again."""
    corpus = Corpus((Row("Who?", "Ann.", entity="Ann", key_facts=("Ann",)),), (Row("", "A text."),), ())
    expected = [
        [{"question": "Who?", "answer": "Ann.", "entity": "Ann", "key": ["Ann"]}],
        [{"question": "", "answer": "A text."}],
    ]
    assert corpus.training_content == content_hash(expected)


@pytest.mark.parametrize("workers_rows", ["packed", "read late", "forgotten early"])
def test_training_is_the_same(workers_rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With packed rows, with tokens that are made at each step, and with a memory of two texts."""
    model = tiny_model_folder(tmp_path / "model")
    plain = job(model, tmp_path / "plain", [ME(), GD()])
    with loop.single_process():
        expected = [parameter.clone() for parameter in train(plain).parameters()]
    other = job(model, tmp_path / "other", [ME(), GD()])
    if workers_rows == "packed":
        monkeypatch.setattr("obliviate.data.packed.PACKED_FROM", 1)
        other = packed_job(other)
        assert isinstance(other.retain, PackedRows)
    elif workers_rows == "read late":
        monkeypatch.setattr(loop, "READ_FIRST", 1)
    else:
        monkeypatch.setattr(batch, "KEPT", 2)
    batch._texts.cache_clear()
    with loop.single_process():
        found = list(train(other).parameters())
    assert all(bool((one == two).all()) for one, two in zip(expected, found, strict=True))


def test_a_text_that_cannot_be_made_stops_the_step_that_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model_folder(tmp_path / "model")
    monkeypatch.setattr(loop, "READ_FIRST", 1)
    seen: list[int] = []

    def refuse(self: batch.Texts, passes: object, items: object) -> None:
        seen.append(1)
        if len(seen) > 1:
            raise UserError("data: a text of the second step")

    monkeypatch.setattr(batch.Texts, "encode", refuse)
    with loop.single_process(), pytest.raises(UserError, match="second step"):
        train(job(model, tmp_path / "run", [ME(), GD()]))
