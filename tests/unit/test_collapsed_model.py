"""A model whose logits are NaN, and records with nothing in them: every suite still answers, and counts."""

import json
from dataclasses import replace
from math import inf, nan

import pytest

from measured import record
from obliviate.data.rows import Role
from obliviate_eval.paired import paired
from obliviate_eval.records import SCORED, Record, ScoredAnswer
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import summarise


def collapsed(value: float) -> list[Record]:
    """Three items of each role; the generation is empty, as are the samples."""
    answer = ScoredAnswer("the cat sat", (value,) * 3, (False,) * 3, (value,) * 3, (value,) * 3)
    return [
        record(
            role, index=i, answers=dict.fromkeys(SCORED, (answer,)), generation="", generation_tokens=(),
            generation_finished=True, samples=("",) * 4, gradient_norm=value,
        )
        for role in Role
        for i in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
@pytest.mark.parametrize("value", [nan, -inf])
def test_a_collapsed_model_is_answered_and_counted(suite, value: float) -> None:
    records = collapsed(value)
    found = summarise(records, suite, resamples=100, reference_records=records)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)  # no NaN stands for a figure
    for row in found.sets.values():
        assert all(figure.scored + figure.unscored == 3 for figure in row.values())
        for metric in {"probability", "truth_ratio", "extraction_strength", "accuracy"} & set(row):
            assert (row[metric].value, row[metric].unscored) == (None, 3)
    for name, figure in found.comparisons.items():
        assert (figure.value is None) == (name != "leak_bound")
    assert found.collapsed
    assert found.forget_quality is None
    differences = paired(records, records, suite, resamples=100)
    json.dumps(differences.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_records_with_nothing_measured_score_nothing(suite) -> None:
    nothing = [replace(each, answers={}, generation=None, samples=(), gradient_norm=None) for each in collapsed(nan)]
    found = summarise(nothing, suite, resamples=100, reference_records=nothing)
    figures = [figure for row in found.sets.values() for figure in row.values()]
    assert all(
        figure.value is None and figure.scored == 0
        for figure in [*figures, *found.comparisons.values(), *found.aggregates.values()]
    )
    assert summarise([], suite, resamples=100).sets == {}
