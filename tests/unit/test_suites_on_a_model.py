"""Every suite on a tiny model: what its metrics ask for is measured, and each figure says what it rests on."""

from pathlib import Path

import pytest

from measured import evaluate
from obliviate.data.fictitious import FictitiousData
from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.data.text import TextEncoder
from obliviate.inference.hf import HFEngine
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.judges import Judges
from obliviate_eval.records import Probe, read_records
from obliviate_eval.spec import EvaluationSpec, SamplingSpec
from obliviate_eval.summary import Evaluation
from tiny import tiny_model_folder

SETS = FictitiousData(
    people=2, questions_per_person=3, forget_people=1, holdout_people=1, eval_retain_limit=2
).load().evaluation  # fmt: skip
LIMIT = GenerationSpec(max_new_tokens=6)
SAMPLES = SamplingSpec(max_new_tokens=6, samples=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[HFEngine, TextEncoder]:
    spec = ModelSpec(source=str(tiny_model_folder(tmp_path_factory.mktemp("tiny"))))
    engine = HFEngine.open(spec, EngineSpec(type="hf", dtype="float32", max_model_len=512))
    return engine, text_encoder(spec, load_tokenizer(spec))


def run(
    model: tuple[HFEngine, TextEncoder], directory: Path, suite: str, sets: tuple[EvaluationSet, ...], **kwargs: object
) -> Evaluation:
    spec = EvaluationSpec(suite=suite, generation=LIMIT, sampling=SAMPLES, resamples=100, encoder=None, nli=None)
    return evaluate(*model, sets, spec, Judges(), directory, **kwargs)


def test_openunlearning(model: tuple[HFEngine, TextEncoder], tmp_path: Path) -> None:
    retain = run(model, tmp_path / "retain", "tofu", SETS)
    assert {name: figure.scored for name, figure in retain.comparisons.items()} == {
        "mia_loss": 6, "mia_zlib": 6, "mia_min_k": 6, "mia_reference": 0, "privleak": 0, "rel_diff": 0,
    }  # fmt: skip
    assert set(retain.sets) == {"forget", "retain", "world_facts"}
    assert all(retain.sets["forget"][metric].unscored == 0 for metric in retain.sets["forget"])

    run(model, tmp_path / "reference", "openunlearning", SETS)
    reference = read_records(tmp_path / "reference" / "records.parquet")
    found = run(model, tmp_path / "own", "openunlearning", SETS, reference_records=reference)
    assert {name: figure.scored for name, figure in found.comparisons.items() if name != "privacy"} == dict.fromkeys(
        ["mia_loss", "mia_zlib", "mia_min_k", "mia_reference", "mia_min_k_plus_plus", "mia_gradnorm", "privleak",
         "rel_diff"], 6,
    )  # fmt: skip
    # Against itself: nothing leaks, whatever a tiny random model says.
    assert found.comparisons["privacy"].value == pytest.approx(1)
    assert found.comparisons["privleak"].value == pytest.approx(0)
    assert found.comparisons["mia_reference"].value == 0.5
    assert found.aggregates["memorization"].scored == 4
    assert found.aggregates["utility"].unscored == 4  # no classifier, and no real authors in TOFU's utility
    holdout = [record for record in reference if record.role is Role.HOLDOUT]
    assert {probe for record in holdout for probe in record.answers} == {Probe.ANSWER, Probe.MOMENTS}
    assert all(record.generation is None and record.gradient_norm is not None for record in holdout)


def test_leakage(model: tuple[HFEngine, TextEncoder], tmp_path: Path) -> None:
    found = run(model, tmp_path, "leakage", SETS)
    forget = found.sets["forget"]
    assert (forget["leak_at_k"].scored, forget["expected_worst_rouge"].scored, forget["self_bleu"].scored) == (3, 3, 3)
    bound = found.comparisons["leak_bound"]
    assert (bound.scored, bound.low) == (3, 0)
    assert bound.high is not None
    assert bound.high > 0.5  # three blocks promise little


def test_muse(model: tuple[HFEngine, TextEncoder], tmp_path: Path) -> None:
    sets = (
        EvaluationSet("verbatim", Role.FORGET, (Row("Ada Lovelace lives", "in London. " * 40),)),
        EvaluationSet("knowledge_forget", Role.FORGET, (Row("Question: Who?\nAnswer: ", "Ada"),)),
        EvaluationSet("knowledge_retain", Role.RETAIN, (Row("Question: Where?\nAnswer: ", "Paris"),)),
        EvaluationSet("forget", Role.FORGET, (Row("", "Ada writes books."), Row("", "Ada has engines."))),
        EvaluationSet("holdout", Role.HOLDOUT, (Row("", "Nobody knows."), Row("", "Nobody walks."))),
    )
    found = run(model, tmp_path, "muse", sets)
    assert {name: list(row) for name, row in found.sets.items()} == {
        "forget": ["probability"],
        "holdout": ["probability"],
        "knowledge_forget": ["knowledge_memorization"],
        "knowledge_retain": ["knowledge_memorization"],
        "verbatim": ["verbatim_memorization", "extraction_strength", "exact_memorization"],
    }
    assert found.comparisons["mia_min_k"].scored == 4  # the texts of two sets, not the questions
    records = {record.set: record for record in read_records(tmp_path / "records.parquet")}
    assert records["knowledge_forget"].answers == {}  # nothing asks for its probability


def test_muse_cuts_as_published(model: tuple[HFEngine, TextEncoder], tmp_path: Path) -> None:
    """128 new tokens and as many of the truth, the beginning of sequence counted; 32 of an answer."""
    truth = "in London. " * 99
    sets = (
        EvaluationSet("verbatim", Role.FORGET, (Row("Ada Lovelace lives", truth),)),
        EvaluationSet("knowledge_forget", Role.FORGET, (Row("Question: Who?\nAnswer: ", truth),)),
    )
    spec = EvaluationSpec(suite="muse", generation=GenerationSpec(max_new_tokens=200), resamples=100)
    evaluate(*model, sets, spec, Judges(), tmp_path)
    records = {record.set: record for record in read_records(tmp_path / "records.parquet")}
    tokenizer = model[1].tokenizer
    assert records["verbatim"].reference == tokenizer.decode(tokenizer(truth).input_ids[:128])
    assert records["knowledge_forget"].reference == truth
    lengths = {name: len(record.generation_tokens or ()) for name, record in records.items()}
    assert 32 < lengths["verbatim"] <= 128
    assert lengths["knowledge_forget"] <= 32


def test_wmdp(model: tuple[HFEngine, TextEncoder], tmp_path: Path) -> None:
    rows = tuple(Row(f"{i}?\nA. w\nB. x\nAnswer:", "A", perturbed_answers=("B",)) for i in range(4))
    found = run(model, tmp_path, "wmdp", (EvaluationSet("bio", Role.FORGET, rows),))
    assert (found.sets["bio"]["accuracy"].scored, found.sets["bio"]["accuracy"].unscored) == (4, 0)


@pytest.mark.parametrize("suite", ["custom", "real_world", "closer_look"])
def test_without_judges_or_a_retain_model(model: tuple[HFEngine, TextEncoder], tmp_path: Path, suite: str) -> None:
    found = run(model, tmp_path, suite, SETS)
    assert found.aggregates["forget_efficacy"].scored == 3
    assert ("mia_loss" in found.comparisons) == (suite == "custom")
    measured = {record.set for record in read_records(tmp_path / "records.parquet")}
    assert ("holdout" in measured) == (suite == "custom")  # a set that nothing asks for is not measured
