"""LUME: its files, its metrics and its scores, against the published formulas and the leaderboard of SemEval-2025."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from measured import evaluate, record
from obliviate.data.lume import LumeData
from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.errors import UserError
from obliviate.inference.hf import HFEngine
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.content import content_of_suite
from obliviate_eval.judges import Judges
from obliviate_eval.metrics import ExactMatch, MiaLoss, MiaScore
from obliviate_eval.records import Probe, Record, ScoredAnswer, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Figure, drawn_from
from obliviate_eval.suites import SUITES
from obliviate_eval.suites.lume import LUME, LUME_FINAL
from obliviate_eval.summary import summarise
from tiny import tiny_model_folder


def rows(part: str) -> list[dict[str, str]]:
    """A text to complete and two questions of each task; ids as published, some with a quotation mark in them."""
    return [
        {
            "id": f'"{part}{task}"{kind}',
            "input": f"{part} {task} {kind}?",
            "output": f"{kind} of {task}",
            "task": f"Task{task}",
        }
        for task in (1, 2, 3)
        for kind in ("sc1", "qa0", "qa1")
    ]


def jsonl(path: Path, found: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


@pytest.fixture
def semeval(tmp_path: Path) -> Path:
    """As `snapshot_download` leaves SemEval's files."""
    (tmp_path / "data").mkdir()
    for part in ("forget", "retain"):
        table = pa.Table.from_pylist(rows(part))
        pq.write_table(table, tmp_path / "data" / f"{part}_train-00000-of-00001.parquet")
    jsonl(tmp_path / "mia_data" / "member.jsonl", [{"id": 1, "document": "seen"}])
    jsonl(tmp_path / "mia_data" / "nonmember.jsonl", [{"id": 1, "document": "unseen"}, {"id": 2, "document": "new"}])
    return tmp_path


def test_semevals_files(semeval: Path) -> None:
    corpus = LumeData(source=str(semeval)).load()
    assert {(s.name, s.role): len(s.rows) for s in corpus.evaluation} == {
        **{(f"{role}_task{t}_{kind}", role): 1 + (kind == "qa")
           for role in (Role.FORGET, Role.RETAIN) for t in (1, 2, 3) for kind in ("sc", "qa")},
        ("member", Role.FORGET): 1,
        ("nonmember", Role.HOLDOUT): 2,
    }  # fmt: skip
    assert (len(corpus.forget), len(corpus.retain), corpus.warnings) == (9, 9, ())
    sets = {s.name: s.rows for s in corpus.evaluation}
    assert sets["retain_task2_sc"] == (Row("retain 2 sc1?", "sc1 of 2"),)
    assert sets["member"] == (Row("", "seen"),)
    assert set(LUME.sets) == set(sets)  # the suite says what it reports of each
    limited = LumeData(source=str(semeval), eval_limit=1, membership=False).load()
    assert [len(s.rows) for s in limited.evaluation] == [1] * 12


def test_the_files_of_its_own_repository(tmp_path: Path) -> None:
    """Both folds together, and no documents."""
    for part in ("forget", "retain"):
        jsonl(tmp_path / "data" / f"{part}.jsonl", rows(part))
    corpus = LumeData(source=str(tmp_path), fold=None).load()
    assert len(corpus.evaluation) == 12
    with pytest.raises(UserError, match=r"has no data/forget_train\.json, \.jsonl or \.parquet; add it"):
        LumeData(source=str(tmp_path)).load()
    with pytest.raises(UserError, match=r"has no mia_data/member\.json"):
        LumeData(source=str(tmp_path), fold=None, membership=True).load()


@pytest.mark.parametrize("change", [{"task": "Task4"}, {"id": "1qa"}, {"id": "1mc0"}])
def test_a_row_of_something_else(tmp_path: Path, change: dict[str, str]) -> None:
    jsonl(tmp_path / "data" / "forget.jsonl", [rows("forget")[0] | change])
    with pytest.raises(UserError, match=r"line 1: has the task 'Task\d' and the id '.+', not Task1 to Task3"):
        LumeData(source=str(tmp_path), fold=None).load()


def test_the_hub_is_asked_for_folds_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(source: str, name: str | None = None, **others: str) -> list[Any]:
        asked.append((name, *others.values()))
        return rows(str(others["split"])) if name else [{"document": "d"}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    LumeData(fold="validation").load()
    assert asked == [
        ("default", "forget_validation"), ("default", "retain_validation"),
        (None, "mia_data/member.jsonl", "train"), (None, "mia_data/nonmember.jsonl", "train"),
    ]  # fmt: skip


def test_exact_match() -> None:
    def match(reference: str, generation: str | None) -> float | None:
        return ExactMatch(definition="lume").score(record(reference=reference, generation=generation))

    assert match("900226238", " 900226238\n") == 1
    assert match("Madera", "MADERA ") == 1
    assert match("Madera", "Madera, California") == 0
    assert match("Madera", "") == 0
    assert match("Madera", None) is None


def loss(role: Role, index: int, loss_of_words: float, end: float = 9.0) -> Record:
    answer = ScoredAnswer("", (-loss_of_words, -loss_of_words, -end), (True, True, False))
    name = "member" if role is Role.FORGET else "nonmember"
    return record(role, set=name, index=index, question="", answers={Probe.ANSWER: (answer,)})


def test_mia_score_by_hand() -> None:
    """Losses 1, 3 of members and 2, 4 of others: three of four pairs are told right, AUC 0.75, score 1 - 2 x 0.25.

    The end of the texts, which published code never scored, would make AUC 0.
    """
    records = [
        loss(Role.FORGET, 0, 1.0, 99), loss(Role.FORGET, 1, 3.0, 99),
        loss(Role.HOLDOUT, 0, 2.0, 0), loss(Role.HOLDOUT, 1, 4.0, 0),
    ]  # fmt: skip
    found = summarise(records, LUME, resamples=100).comparisons
    assert (found["mia_loss"].value, found["mia_score"].value) == (0.75, 0.5)
    assert (found["mia_score"].scored, found["mia_score"].unscored) == (4, 0)
    turned = [
        loss(Role.FORGET, 0, 2.0), loss(Role.FORGET, 1, 4.0), loss(Role.HOLDOUT, 0, 1.0), loss(Role.HOLDOUT, 1, 3.0)
    ]  # fmt: skip
    assert summarise(turned, LUME, resamples=100).comparisons["mia_score"].value == 0.5  # over-forgotten: as far off
    assert summarise([], LUME, resamples=100).comparisons["mia_score"].value is None
    assert MiaScore().attack == MiaLoss()


def one_of_each(share_of_forget: float, share_of_retain: float) -> list[Record]:
    """Ten items of each of the 12 sets, of which these shares are answered word for word."""
    return [
        record(role, set=f"{role}_task{task}_{kind}", index=i, generation="the cat sat" if i < 10 * share else "")
        for role, share in ((Role.FORGET, share_of_forget), (Role.RETAIN, share_of_retain))
        for task in (1, 2, 3)
        for kind in ("sc", "qa")
        for i in range(10)
    ]


def test_the_task_aggregate_is_the_harmonic_mean_of_twelve() -> None:
    found = summarise(one_of_each(0.2, 0.6), LUME, resamples=100)
    tasks = found.aggregates["lume_tasks"]
    assert tasks.value == pytest.approx(harmonic_mean([0.8] * 6 + [0.6] * 6))  # 24 / 35
    assert (tasks.scored, tasks.unscored) == (12, 0)
    assert {name: list(row) for name, row in found.sets.items() if "task2" in name} == {
        "forget_task2_sc": ["rouge"], "forget_task2_qa": ["exact_match"],
        "retain_task2_sc": ["rouge"], "retain_task2_qa": ["exact_match"],
    }  # fmt: skip
    assert summarise(one_of_each(1.0, 0.6), LUME, resamples=100).aggregates["lume_tasks"].value == 0
    one_task = [r for r in one_of_each(0.2, 0.6) if "task1" in r.set]
    assert summarise(one_task, LUME, resamples=100).aggregates["lume_tasks"].scored == 4


# Of the 7B leaderboard: final score, task aggregate, MIA score, MMLU.
LEADERBOARD = {
    "AILS-NTUA": (0.706, 0.827, 0.847, 0.443),
    "ZJUKLAB": (0.487, 0.944, 0.048, 0.471),
    "Mr. Snuffleupagus": (0.376, 0.387, 0.256, 0.485),
    "ishumei-Chinchunmei": (0.326, 0.496, 0.0, 0.481),
    "SHA256": (0.711, 0.964, 0.894, 0.275),
    "NPO": (0.188, 0.021, 0.080, 0.463),
}


@pytest.mark.parametrize("team", LEADERBOARD)
def test_the_published_final_scores(team: str) -> None:
    final, *parts = LEADERBOARD[team]
    known = {
        name: drawn_from(Figure(part, part, part, 1, 0), 100, [0])
        for name, part in zip((*LUME_FINAL.parts, *LUME_FINAL.tasks), parts, strict=True)
    }
    found = LUME_FINAL.estimate({}, known).figure()
    assert found.value == pytest.approx(final, abs=0.001)  # three rounded numbers
    assert found.scored == 3


def test_mmlu_comes_from_the_harness() -> None:
    records = [*one_of_each(0.2, 0.6), *(loss(Role.FORGET, i, 1.0 + i) for i in range(2))]
    records += [loss(Role.HOLDOUT, i, 1.5 + i) for i in range(2)]
    without = summarise(records, LUME, resamples=1000).aggregates["lume"]
    assert without.value == pytest.approx((24 / 35 + 0.5) / 2)
    assert (without.scored, without.unscored) == (2, 1)
    mmlu = {"acc": Figure(0.49, 0.4508, 0.5292, 100, 0)}  # standard error 0.02
    measured = summarise(records, LUME, resamples=1000, tasks={"mmlu": mmlu, "mmlu_stem": mmlu})
    found = measured.aggregates["lume"]
    assert found.value == pytest.approx((24 / 35 + 0.5 + 0.49) / 3)
    assert (found.scored, found.unscored) == (3, 0)
    assert measured.tasks["mmlu"] == mmlu
    alone = summarise([], LUME, resamples=1000, tasks={"mmlu": mmlu}).aggregates["lume"]
    assert alone.low == pytest.approx(0.4508, abs=0.005)  # nothing but MMLU's own error
    assert alone.high == pytest.approx(0.5292, abs=0.005)


def test_figures_depend_on_what_is_turned_and_on_tasks() -> None:
    """No figure of another suite's making is taken for this one's."""
    contents = {content_of_suite(LUME)}
    for change in ({"turned": ()}, {"tasks": ()}):
        contents.add(content_of_suite(replace(LUME, aggregates=tuple(replace(a, **change) for a in LUME.aggregates))))
    assert len(contents) == 3


def test_on_a_model(tmp_path: Path) -> None:
    spec = ModelSpec(source=str(tiny_model_folder(tmp_path / "tiny")), chat_template="raw")
    engine = HFEngine.open(spec, EngineSpec(type="hf", dtype="float32", max_model_len=512))
    sets = (
        EvaluationSet("forget_task1_sc", Role.FORGET, (Row("Ada lives in", "London"),)),
        EvaluationSet("retain_task1_qa", Role.RETAIN, (Row("Who?", "Ada"), Row("Where?", "Here"))),
        EvaluationSet("member", Role.FORGET, (Row("", "Ada writes books."), Row("", "Ada has engines."))),
        EvaluationSet("nonmember", Role.HOLDOUT, (Row("", "Nobody knows."), Row("", "Nobody walks."))),
    )
    evaluation = EvaluationSpec(suite="lume", generation=GenerationSpec(max_new_tokens=6), resamples=100)
    found = evaluate(engine, text_encoder(spec, load_tokenizer(spec)), sets, evaluation, Judges(), tmp_path)
    assert found.sets["retain_task1_qa"]["exact_match"].scored == 2
    assert found.comparisons["mia_score"].scored == 4
    records = {r.set: r for r in read_records(tmp_path / "records.parquet")}
    assert records["forget_task1_sc"].answers == {}  # nothing asks for its probability
    assert records["member"].generation is None
    assert SUITES["lume"] is LUME
