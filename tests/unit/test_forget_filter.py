"""Forget-set filtering: the verdict by hand, where it is reported, and what it refuses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from letters import Letters
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.stages import filtering as forget_filter
from obliviate_recipes.stages.card import CARD, write_card
from obliviate_recipes.stages.judged import JUDGED, Judged, judge
from obliviate_recipes.stages.training import resolved
from recipes import Told, unlearned, with_filter

NAN = float("nan")
ROWS = tuple(Row(f"{letters}?", letters) for letters in ("aab", "ab", "b", "c"))
RETAIN = (Row("ab?", "ab!"), Row("", "c c"))


def config(tiny: Path, folder: Path, **changed: Any) -> UnlearnRun:
    filtering = {"reference": {"source": str(tiny)}, **changed}
    values = {
        "model": {"source": str(tiny)}, "data": {"type": "fictitious"}, "method": "npo+gd", "runs": str(folder),
        "forget_filter": filtering,
    }  # fmt: skip
    return build(UnlearnRun, values, where="test")


class Scripted:
    """In the engines' place: log-probabilities per token of the rows, of the model first and then of the reference."""

    def __init__(self, model: Sequence[float], reference: Sequence[float]) -> None:
        self.logps = [model, reference]
        self.calls = 0

    def __call__(self, model: Any, engine: Any, rows: Sequence[Row], *rest: Any) -> list[tuple[int, float]]:
        self.calls += 1
        return [(3, logp) for logp in self.logps[(self.calls - 1) % 2]]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    found = Scripted([-1.0, -1.0, -0.2, -1.0], [-1.05, -2.0, -0.25, -1.0])
    monkeypatch.setattr(forget_filter, "_scored", found)
    monkeypatch.setattr(forget_filter, "sentence_encoder", lambda source: Letters())
    return found


def test_the_verdict_by_hand(tiny: Path, tmp_path: Path) -> None:
    """Filtered is what is near and known no better: each of the others misses one of the two."""
    spec = config(tiny, tmp_path).forget_filter
    assert spec is not None
    near = [("n", 0.8), ("n", 0.79), ("n", 0.9), ("n", 0.9), ("n", 0.9)]
    model = [(2, -1.0), (2, -1.0), (2, -1.0), (2, NAN), (2, -3.0)]
    reference = [(2, -1.05), (2, -1.0), (2, -1.2), (2, -1.0), (2, -1.0)]
    judged = judge(spec, [Row("?", "!")] * 5, near, model, reference)
    assert [each.filtered for each in judged] == [True, False, False, False, True]
    assert judged[3].model_logp is None
    with pytest.raises(UserError, match=r"forget_filter\.reference: cuts the answer '!' into 3 tokens and the model"):
        judge(spec, [Row("?", "!")], near[:1], [(2, -1.0)], [(3, -1.0)])


def test_the_reference_is_laid_out_as_the_model_is(tiny: Path, tmp_path: Path) -> None:
    run = config(tiny, tmp_path)
    model = run.model.model_copy(update={"max_length": 64, "system_prompt": "", "chat_template": "plain"})
    run = run.model_copy(update={"model": model})
    found = forget_filter.Filter(run, Corpus(ROWS, RETAIN, ())).reference
    assert (found.max_length, found.system_prompt, found.chat_template) == (64, "", "plain")
    assert found.source == str(tiny)
    with pytest.raises(UserError, match=r"forget_filter\.reference\.max_length: has no effect: .* remove it"):
        config(tiny, tmp_path, reference={"source": str(tiny), "max_length": 64})


def test_filtered_rows_are_reported_one_by_one_and_measured_all_the_same(
    tiny: Path, tmp_path: Path, scripted: Scripted
) -> None:
    """To "ab? ab!" the cosines are 0.95, 1, 0.71: of the near rows "aab" is known by 0.05 better; "c" by nothing."""
    whole = EvaluationSet("forget", Role.FORGET, ROWS)
    corpus, told = Corpus(ROWS, RETAIN, (whole,)), Told()
    found, path = with_filter(config(tiny, tmp_path), corpus, told)
    assert found.forget == ROWS[1:3]
    assert found.evaluation == (whole,)
    assert path is not None
    judged = [Judged(**json.loads(line)) for line in path.read_text().splitlines()]
    assert [each.filtered for each in judged] == [True, False, False, True]
    assert (judged[0].nearest, judged[3].nearest) == ("ab?", "c c")
    assert judged[0].cosine == pytest.approx(3 / 10**0.5)  # (2, 1) and (1, 1): 3 / (sqrt 5 sqrt 2)
    printed = told.text
    assert "2 of 4 forget rows are not trained on" in printed
    assert "aab? (cosine 0.95 to: ab?; log-probability -1.00, of the reference -1.05)" in printed
    again, _ = with_filter(config(tiny, tmp_path), corpus)
    assert again == found
    assert scripted.calls == 2
    with_filter(config(tiny, tmp_path, gap=0.5), corpus)
    assert scripted.calls == 4


def test_what_a_method_needs_must_be_left(tiny: Path, tmp_path: Path, scripted: Scripted) -> None:
    """All rows are near, and "ab" alone is known better than by the reference: it has no other row's answer to take."""
    scripted.logps = [[-1.0] * 4, [-1.0, -2.0, -1.0, -1.0]]
    run = config(tiny, tmp_path, similarity=0.5)
    sku = build(UnlearnRun, {**run.model_dump(mode="json"), "method": "sku", "regularizers": []}, where="test")
    with pytest.raises(UserError, match="answers forget questions with other rows' answers; give two rows"):
        unlearned(sku, Corpus(ROWS, RETAIN, ()))


def test_the_model_card_lists_them(tiny: Path, tmp_path: Path, scripted: Scripted) -> None:
    run_config = config(tiny, tmp_path)
    _, path = with_filter(run_config, Corpus(ROWS, RETAIN, ()))
    assert path is not None
    whole = run_config.model_dump(mode="json")
    run = Run.at(tmp_path, "unlearn", "x", resolved(run_config), {"data": "0" * 64}, whole_config=whole).begin()
    (run.directory / "model").mkdir()
    (run.directory / JUDGED).write_bytes(path.read_bytes())
    write_card(run, "model")
    card = (run.directory / "model" / CARD).read_text()
    assert "2 of 4 forget rows were filtered: the model may still know what they say." in card
    assert "\n- c? (cosine 1.00 to: c c;" in card


def test_it_is_off_unless_asked_for(tiny: Path, tmp_path: Path) -> None:
    run = config(tiny, tmp_path).model_copy(update={"forget_filter": None})
    corpus = Corpus(ROWS, RETAIN, ())
    assert with_filter(run, corpus) == (corpus, None)
    assert not list(tmp_path.iterdir())


def test_what_it_cannot_do_is_refused(tiny: Path, tmp_path: Path, scripted: Scripted) -> None:
    def mistake(corpus: Corpus, **changed: Any) -> str:
        with pytest.raises(UserError) as error:
            with_filter(config(tiny, tmp_path, **changed), corpus)
        return str(error.value)

    assert "forget_filter: the data has no retain set" in mistake(Corpus(ROWS, (), ()))
    everything = {"similarity": -1, "gap": 9}
    assert "all 4 forget rows are filtered; lower gap" in mistake(Corpus(ROWS, RETAIN, ()), **everything)
    for key, value in (("similarity", 2), ("gap", -1), ("refrence", "x")):
        with pytest.raises(UserError, match=rf"forget_filter\.{key}"):
            config(tiny, tmp_path, **{key: value})
    requests = {
        **config(tiny, tmp_path).model_dump(mode="json"), "ledger": "l", "key": "k",
        "policy": {"forget": {"rouge": {"max": 0.5}}, "utility": {"model_utility": {"min": 0.1}}},
    }  # fmt: skip
    with pytest.raises(UserError, match="forget_filter: a request is about all of its rows"):
        build(RequestsRun, requests, where="test")
