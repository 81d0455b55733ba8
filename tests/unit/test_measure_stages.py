"""Records are asked of an engine once; figures are made anew wherever something that they depend on is another."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.inference.hf import HFEngine
from obliviate.runs import RUN_FILE, Run, write_json
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval import content
from obliviate_eval.content import CODE, content_of_code, content_of_suite
from obliviate_eval.judges import Judges
from obliviate_eval.metrics import DistinctN, Loss, TruthRatio
from obliviate_eval.own_suite import SuiteSpec
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.spec import EvaluationSpec, SamplingSpec
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.stages import measure as stage
from obliviate_recipes.stages.card import CARD
from obliviate_recipes.stages.measure import Figures, Measuring
from recipes import Told, made

ROWS = tuple(Row(f"Where does person {i} live?", f"Person {i} lives in London.") for i in range(3))
CORPUS = Corpus(ROWS, (), (EvaluationSet("forget", Role.FORGET, ROWS),))
SPEC = EvaluationSpec(
    suite="opt_out", engine=EngineSpec(type="hf", dtype="float32"), generation=GenerationSpec(max_new_tokens=4),
    encoder=None, nli=None, fluency=None, resamples=100,
)  # fmt: skip
Evaluate = Callable[..., Path]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that an engine was opened for."""
    found: list[str] = []
    opened = HFEngine.open

    def counting(model: ModelSpec, spec: EngineSpec) -> HFEngine:
        found.append(model.source)
        return opened(model, spec)

    monkeypatch.setattr(HFEngine, "open", counting)
    return found


@pytest.fixture
def planned(tiny: Path, tmp_path: Path) -> Callable[..., Figures]:
    def plan(retain: Figures | None = None, model: Path = tiny, corpus: Corpus = CORPUS, **fields: Any) -> Figures:
        measuring = Measuring(corpus, SPEC.model_copy(update=fields), None, str(tmp_path / "runs"), within=True)
        return measuring.figures("tiny", ModelSpec(source=str(model), compute_dtype="float32"), retain)

    return plan


@pytest.fixture
def evaluate(planned: Callable[..., Figures]) -> Evaluate:
    return lambda **given: made(planned(**given))


def recorded(runs: Path) -> list[Path]:
    return [path.parent for path in runs.glob(f"records-*/{RECORDS_FILE}")]


def test_what_is_done_is_not_done_again(evaluate: Evaluate, asked: list[str]) -> None:
    assert evaluate() == evaluate()
    assert len(asked) == 1


@pytest.mark.parametrize(
    "fields",
    [{"resamples": 200}, {"seed": 1}, {"sampling": SamplingSpec(samples=3)}, {"suite": "tofu"}],
    ids=lambda fields: next(iter(fields)),
)
def test_other_figures_of_the_same_records(evaluate: Evaluate, asked: list[str], fields: dict[str, Any]) -> None:
    """Samples are drawn for no metric of this suite, and TOFU's asks for the same texts."""
    first, second = evaluate(), evaluate(**fields)
    assert (first == second) == ("sampling" in fields)
    assert len(asked) == len(recorded(first.parent)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"generation": GenerationSpec(max_new_tokens=5)},
        {"engine": EngineSpec(type="hf", dtype="bfloat16")},
        {"suite": "leakage"},
    ],
)
def test_other_records(evaluate: Evaluate, asked: list[str], fields: dict[str, Any]) -> None:
    assert evaluate() != evaluate(**fields)
    assert len(asked) == 2


def test_a_suite_with_another_metric_of_the_same_texts(
    evaluate: Evaluate, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What whoever adds a metric does: it is there at once, and the model is not asked again."""
    before = Evaluation.read(evaluate() / METRICS_FILE)
    suite = SUITES["opt_out"]
    monkeypatch.setitem(SUITES, "opt_out", replace(suite, metrics=(*suite.metrics, DistinctN())))
    after = Evaluation.read(evaluate() / METRICS_FILE)
    assert set(after.sets["forget"]) - set(before.sets["forget"]) == {"distinct_n"}
    assert len(asked) == 1
    monkeypatch.setitem(SUITES, "opt_out", replace(suite, metrics=(*suite.metrics, Loss())))
    evaluate()
    assert len(asked) == 1


def test_a_suite_of_ones_own(evaluate: Evaluate, asked: list[str]) -> None:
    values = {
        "metrics": ["rouge", "probability", {"type": "truth_ratio", "definition": "tofu"}],
        "aggregates": [
            {"name": "forgotten", "metrics": ["rouge", "probability"], "roles": ["forget"], "turned": ["forget"]},
            {"name": "twice", "parts": ["forgotten"], "combine": "harmonic_mean"},
        ],
        "sets": {"for*": ["rouge", "probability"]},
    }
    suite = EvaluationSpec.model_validate({"suite": values}).suite
    found = Evaluation.read(evaluate(suite=suite) / METRICS_FILE)
    assert found.suite == "own"
    assert set(found.sets["forget"]) == {"rouge", "probability"}
    rouge, probability = (found.sets["forget"][name].value or 0 for name in ("rouge", "probability"))
    assert found.aggregates["forgotten"].value == pytest.approx(1 - (rouge + probability) / 2)
    assert found.aggregates["twice"].value == pytest.approx(found.aggregates["forgotten"].value)
    other = SuiteSpec.model_validate({**values, "metrics": ["rouge", "probability"], "aggregates": []})
    assert evaluate(suite=other).name != evaluate(suite=suite).name
    assert len(asked) == 1
    assert EvaluationSpec.model_validate(json.loads(EvaluationSpec(suite=suite).model_dump_json())).suite == suite


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sets": {"forget": ["probability"]}}, "sets.forget: probability is none of metrics; add it there"),
        ({"aggregates": [{"name": "a", "metrics": ["fluency"], "roles": ["forget"]}]}, "fluency is none of metrics"),
        ({"aggregates": [{"name": "a", "metrics": ["rouge"]}]}, "a: metrics and roles go together"),
        ({"aggregates": [{"name": "a"}]}, "a: is made of nothing"),
        ({"aggregates": [{"name": "a", "parts": ["b"]}]}, "a: b is neither a comparison nor an aggregate before it"),
        ({"aggregates": [{"name": "rouge", "parts": ["b"]}]}, "rouge is there twice"),
        ({"metric": ["rouge"]}, "metric: unknown key; did you mean metrics?"),
    ],
)
def test_mistakes_in_a_suite_of_ones_own(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        EvaluationSpec.model_validate({"suite": {"metrics": ["rouge"], **values}})


def test_a_metric_that_was_mended_is_computed_again(
    evaluate: Evaluate, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate()
    monkeypatch.setattr(stage, "content_of_code", lambda: "mended")
    assert evaluate() != first
    assert len(asked) == 1


def test_the_code_of_figures_is_that_of_metrics_judges_and_statistics(tmp_path: Path) -> None:
    package = Path(content.__file__).parent
    assert all(list(package.glob(pattern)) for pattern in CODE)
    copy = shutil.copytree(package, tmp_path / "obliviate_eval")
    assert content_of_code(copy) == content_of_code()
    contents = {content_of_code()}
    for name in ("metrics/rouge.py", "judges/nli.py", "statistics.py", "judges/prompts/reveals.txt"):
        (copy / name).write_text((copy / name).read_text() + "\n")
        content_of_code.cache_clear()
        contents.add(content_of_code(copy))
    assert len(contents) == 5


def test_the_content_of_a_suite() -> None:
    suite = SUITES["closer_look"]
    others = [
        replace(suite, metrics=suite.metrics[1:]),
        replace(suite, metrics=(*suite.metrics, TruthRatio(definition="tofu"))),
        replace(suite, comparisons=SUITES["tofu"].comparisons),
        replace(suite, aggregates=suite.aggregates[1:]),
        replace(suite, aggregates=(replace(suite.aggregates[0], combine=None), *suite.aggregates[1:])),
        replace(suite, premise=dict.fromkeys(suite.premise, "reference")),
        replace(suite, sets={"forget": ("rouge",)}),
    ]
    assert len({content_of_suite(each) for each in (suite, *others)}) == 8
    assert content_of_suite(replace(suite, title="Another")) == content_of_suite(suite)


def test_the_retain_model_is_part_of_the_figures(
    planned: Callable[..., Figures], evaluate: Evaluate, asked: list[str]
) -> None:
    alone = planned()
    compared = evaluate(retain=alone)
    assert len({made(alone), compared, evaluate(retain=planned(resamples=50))}) == 3
    assert len(asked) == 1
    assert Evaluation.read(compared / METRICS_FILE).forget_quality is None  # rows without truth ratios


def test_another_judge_judges_the_same_records(
    evaluate: Evaluate, asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trained again in the same folder."""
    judge = tmp_path / "judge"
    judge.mkdir()
    monkeypatch.setattr(
        "obliviate_eval.judges.load.load_judges",
        lambda spec, cache: Judges(entailment=lambda pairs: [(judge / "model.safetensors").read_text()] * len(pairs)),
    )
    found = []
    for label in ("entailment", "neutral"):
        (judge / "model.safetensors").write_text(label)
        run = evaluate(suite="closer_look", nli=str(judge))
        found.append(Evaluation.read(run / METRICS_FILE).sets["forget"]["entailment"].value)
        assert {record.entailment for record in read_records(run / RECORDS_FILE)} == {label}
    assert found[1] == 0
    (collected,) = recorded(tmp_path / "runs")
    assert {record.entailment for record in read_records(collected / RECORDS_FILE)} == {None}
    assert len(asked) == 1


def test_other_weights_or_rows_are_other_records(
    evaluate: Evaluate, asked: list[str], tiny: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    evaluate(model=model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"0000")
    evaluate(model=model)
    evaluate(model=model, corpus=replace(CORPUS, evaluation=(EvaluationSet("forget", Role.FORGET, ROWS[:2]),)))
    assert len(asked) == 3


def test_figures_that_fail_leave_the_records(
    evaluate: Evaluate, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("obliviate_eval.run.summarise", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate()
    assert (evaluate() / METRICS_FILE).exists()
    assert len(asked) == 1


@pytest.mark.parametrize("writable", [True, False])
def test_a_card_that_cannot_be_written_is_told(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    trained = tmp_path / "unlearn-me-0123456789"
    shutil.copytree(tiny, trained / "model")
    write_json(trained / RUN_FILE, {"verb": "unlearn", "label": "me", "config": {}})
    (trained / "model" / CARD).write_text("# me")
    seen: list[bool] = []

    def card(run: Run, *_: object) -> None:
        seen.append(run.directory == trained)
        if not writable:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stage, "add_measurement", card)
    told, measuring = Told(), Measuring(CORPUS, SPEC, None, str(tmp_path / "runs"), within=True)
    run = made(measuring.figures("me", ModelSpec(source=str(trained / "model"))), told)
    assert seen == [True]
    assert Run(run, "").summary == {"records": RECORDS_FILE, "metrics": METRICS_FILE}
    assert ("card stays as it was: Permission denied" in told.text) is not writable


def test_a_model_that_was_but_opened_has_no_card(tiny: Path, tmp_path: Path) -> None:
    """As a GGUF is for a sweep that trains none before its trials."""
    opened = tmp_path / "base-tiny-0123456789"
    shutil.copytree(tiny, opened / "model")
    write_json(opened / RUN_FILE, {"verb": "base", "label": "tiny", "config": {"model": {"source": "tiny.gguf"}}})
    measuring = Measuring(CORPUS, SPEC, None, str(tmp_path), within=True)
    run = made(measuring.figures("target", ModelSpec(source=str(opened / "model"))))
    assert (run / METRICS_FILE).exists()
    assert not (opened / "model" / CARD).exists()
