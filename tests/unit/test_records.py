from math import exp, inf, nan
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measured import record
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.records import SCORED, Probe, Record, ScoredAnswer, read_records, write_records

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scored_answers = st.builds(
    ScoredAnswer,
    text=texts,
    logp=st.lists(st.floats(-1e3, 0), max_size=4).map(tuple),
    greedy=st.lists(st.booleans(), max_size=4).map(tuple),
    mean=st.lists(st.floats(-1e3, 0), max_size=4).map(tuple),
    variance=st.lists(st.floats(0, 1e3), max_size=4).map(tuple),
)
any_record = st.builds(
    Record,
    set=texts,
    role=st.sampled_from(Role),
    index=st.integers(0, 10**6),
    question=texts,
    reference=texts,
    full_reference=texts,
    generation=st.none() | texts,
    generation_tokens=st.none() | st.lists(st.integers(0, 300_000), max_size=5).map(tuple),
    generation_finished=st.none() | st.booleans(),
    answers=st.dictionaries(st.sampled_from(SCORED), st.lists(scored_answers, max_size=3).map(tuple)),
    similarity=st.none() | st.floats(-1, 1),
    entailment=st.none() | st.sampled_from(["entailment", "neutral"]),
    samples=st.lists(texts, max_size=3).map(tuple),
    sample_entailment=st.lists(texts, max_size=3).map(tuple),
    gradient_norm=st.none() | st.floats(0, 1e6),
    fluency=st.none() | st.floats(0, 1),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(any_record, max_size=4))
def test_records_come_back_from_the_file_as_they_were(tmp_path_factory: pytest.TempPathFactory, records) -> None:
    path = tmp_path_factory.mktemp("records") / "records.parquet"
    write_records(path, records)
    assert read_records(path) == records
    assert [file.name for file in path.parent.iterdir()] == ["records.parquet"]  # written whole, nothing left behind


def test_a_collapsed_models_numbers_are_kept_as_they_are(tmp_path: Path) -> None:
    answer = ScoredAnswer("a", (nan, -inf, -1.0))
    write_records(tmp_path / "r.parquet", [record(answers={Probe.ANSWER: (answer,)})])
    [back] = read_records(tmp_path / "r.parquet")
    assert str(back.answers[Probe.ANSWER][0].logp) == "(nan, -inf, -1.0)"


def test_an_answers_probability_is_per_token() -> None:
    answer = ScoredAnswer("", (-1.0, -3.0))
    assert answer.mean_logp == -2.0
    assert answer.probability == exp(-2.0)


@pytest.mark.parametrize("logp", [(), (nan, -1.0), (-inf,)])
def test_an_answer_without_finite_tokens_has_no_probability(logp: tuple[float, ...]) -> None:
    assert ScoredAnswer("", logp).mean_logp is None
    assert ScoredAnswer("", logp).probability is None


def test_a_file_from_before_the_later_columns_has_them_as_not_measured(tmp_path: Path) -> None:
    later = record(answers={Probe.ANSWER: (ScoredAnswer("a", (-1.0,), (True,), (-2.0,), (0.5,)),)}, samples=("b",))
    write_records(tmp_path / "r.parquet", [later])
    rows = pq.read_table(tmp_path / "r.parquet").drop(["moments", "samples", "gradient_norm", "fluency"]).to_pylist()
    for row in rows:
        for answer in row["answer"]:
            del answer["mean"], answer["variance"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "old.parquet")
    assert read_records(tmp_path / "old.parquet") == [
        record(answers={Probe.ANSWER: (ScoredAnswer("a", (-1.0,), (True,)),)})
    ]


def test_content_leaves_the_end_of_turn_out() -> None:
    assert ScoredAnswer("", (-1.0, -2.0, -3.0), (True,) * 3).content == (-1.0, -2.0)
    assert ScoredAnswer("", (-1.0, -2.0)).content is None  # the tokens are not known one by one
    assert ScoredAnswer("", (nan, -2.0), (True, True)).content is None


def test_a_missing_file_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.parquet: no readable parquet file"):
        read_records(tmp_path / "nowhere.parquet")


def test_a_file_that_is_no_parquet_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "r.parquet").write_text("hello")
    with pytest.raises(UserError, match=r"r\.parquet: no readable parquet file"):
        read_records(tmp_path / "r.parquet")


def test_a_parquet_of_something_else_is_a_users_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["q"]}), tmp_path / "r.parquet")
    with pytest.raises(UserError, match=r"without answer, entailment, .*; run the evaluation again"):
        read_records(tmp_path / "r.parquet")


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    """Of a file that no run lists, its pages' own checksums tell: one flipped bit in what a column holds."""
    path = tmp_path / "r.parquet"
    write_records(path, [record(index=index, generation=f"It is London {index}.") for index in range(3)])
    whole, pages = path.read_bytes(), pq.read_metadata(path).row_group(0)
    held = {pages.column(i).path_in_schema: pages.column(i) for i in range(pages.num_columns)}
    for name in ("index", "generation"):
        content, column = bytearray(whole), held[name]
        content[column.data_page_offset + column.total_compressed_size - 12] ^= 4
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^{path}: no readable parquet file"):
            read_records(path)
