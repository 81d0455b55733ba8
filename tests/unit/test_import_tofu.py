"""Real evaluation logs of TOFU's authors, against the values that their own aggregation gives."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.importers.tofu import read_tofu_log
from obliviate_eval.metrics import Rouge
from obliviate_eval.paired import paired
from obliviate_eval.records import Probe, Record
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import Evaluation, summarise

LOGS = Path(__file__).parents[2].parent / "shared" / "data" / "tofu-eval-logs"
needs_logs = pytest.mark.skipif(not LOGS.is_dir(), reason="TOFU's evaluation logs are not beside the checkout")
FULL, RETAIN90 = "phi-1.5-full", "phi-1.5-retain90"

KNOWN = {
    FULL: {
        ("retain", "probability"): 0.9260884160508499,
        ("forget", "probability"): 0.9282394842423188,
        ("real_authors", "probability"): 0.3773603259680648,
        ("world_facts", "probability"): 0.40899845221380016,
        ("retain", "rouge"): 0.9292525097192792,
        ("forget", "rouge"): 0.9248612622630048,
        ("retain", "truth_ratio"): 0.482683008320846,
        ("forget", "truth_ratio"): 0.48335558566802284,
    },
    RETAIN90: {
        ("retain", "probability"): 0.9231140312552543,
        ("forget", "probability"): 0.1349069615867286,
        ("real_authors", "probability"): 0.3841872783056456,
        ("world_facts", "probability"): 0.4080884361891155,
        ("retain", "rouge"): 0.9200431185901895,
        ("forget", "rouge"): 0.4278674282179278,
        ("retain", "truth_ratio"): 0.4847391599677,
        ("forget", "truth_ratio"): 0.6288417132144549,
    },
}
KNOWN_UTILITY = {FULL: 0.5220737132035151, RETAIN90: 0.5319909117798325}


@cache
def records(model: str) -> list[Record]:
    return read_tofu_log(LOGS / f"{model}.json")


@cache
def summary(model: str) -> Evaluation:
    return summarise(records(model), SUITES["tofu"], resamples=100, reference_records=records(RETAIN90))


@needs_logs
@pytest.mark.parametrize("model", [FULL, RETAIN90])
def test_every_known_value_is_reproduced(model: str) -> None:
    for (name, metric), expected in KNOWN[model].items():
        assert summary(model).sets[name][metric].value == pytest.approx(expected, abs=1e-9), (name, metric)
    utility = summary(model).aggregates["tofu_model_utility"]
    assert utility.value == pytest.approx(KNOWN_UTILITY[model], abs=1e-9)
    assert (utility.scored, utility.unscored) == (9, 0)
    assert {name: row["rouge"].scored for name, row in summary(model).sets.items()} == {
        "forget": 300, "retain": 300, "real_authors": 100, "world_facts": 117,
    }  # fmt: skip


@needs_logs
def test_forget_quality_of_the_full_model_against_the_retain_model() -> None:
    quality = summary(FULL).forget_quality
    assert quality is not None
    assert quality.statistic == pytest.approx(0.34666666666666667, abs=1e-12)
    assert quality.p_value == pytest.approx(2.1942743021891237e-16, rel=1e-9)
    assert quality.log10_p == pytest.approx(-15.65870908301437, abs=1e-9)


@needs_logs
@pytest.mark.parametrize("model", [FULL, RETAIN90])
def test_rouge_of_every_logged_generation_is_exactly_the_logged_one(model: str) -> None:
    log = json.loads((LOGS / f"{model}.json").read_text())
    logged = {"retain": "eval_log.json", "forget": "eval_log_forget.json"}
    for name, key in logged.items():
        ours = [Rouge(words="published").score(record) for record in records(model) if record.set == name]
        assert ours == list(log[key]["rougeL_recall"].values())


@needs_logs
def test_a_closer_look_turns_the_forget_truth_ratio_and_leaves_out_what_a_log_lacks() -> None:
    found = summarise(records(FULL), SUITES["closer_look"], resamples=100)
    assert found.sets["forget"]["truth_ratio"].value == pytest.approx(1 - 0.48335558566802284, abs=1e-9)
    # No tokens and no judgements: 3 of the 6 metrics on each of 3 sets.
    assert (found.aggregates["model_utility"].scored, found.aggregates["model_utility"].unscored) == (9, 9)


@needs_logs
def test_paired_tests_tell_what_the_two_models_differ_in() -> None:
    """One saw the forget set and the other did not: they differ there, and on nothing that both saw or neither."""
    found = paired(records(RETAIN90), records(FULL), SUITES["tofu"], resamples=200)
    forget, retain = found.sets["forget"], found.sets["retain"]
    expected = KNOWN[FULL]["forget", "probability"] - KNOWN[RETAIN90]["forget", "probability"]
    assert forget["probability"].value == pytest.approx(expected, abs=1e-9)
    for metric in ("rouge", "probability", "truth_ratio"):
        assert (forget[metric].p_adjusted or 1) < 0.001
        assert (retain[metric].p_adjusted or 0) > 0.05


def small_log() -> dict[str, Any]:
    return {
        "eval_log_forget.json": {
            "generated_text": {"7": ["Question: Who?\n", "Answer: Ada Byron", "Ada Lovelace"]},
            "avg_gt_loss": {"7": 0.5},
            "num_token_gt": {"7": 4},
            "avg_paraphrased_loss": {"7": 0.75},
            "num_token_paraphrased": {"7": 2},
            "average_perturb_loss": {"7": [1.0, 2.0]},
            "num_token_perturb": {"7": [3, 1]},
        }
    }


def written(tmp_path: Path, log: object) -> Path:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    return path


def test_an_entry_becomes_a_record(tmp_path: Path) -> None:
    [record] = read_tofu_log(written(tmp_path, small_log()))
    assert (record.set, record.role, record.index) == ("forget", Role.FORGET, 7)
    assert (record.question, record.reference) == ("Question: Who?", "Ada Lovelace")
    assert record.generation == "Answer: Ada Byron"
    assert record.generation_tokens is None
    assert record.answers[Probe.ANSWER][0].logp == (-0.5,) * 4
    assert [answer.logp for answer in record.answers[Probe.PERTURBED]] == [(-1.0,) * 3, (-2.0,)]
    assert record.answers[Probe.PARAPHRASED][0].mean_logp == -0.75


@pytest.mark.parametrize("log", [{}, [], {"accuracy": 1.0}])
def test_json_of_something_else_is_a_users_error(tmp_path: Path, log: object) -> None:
    with pytest.raises(UserError, match=r"log\.json: no evaluation log of TOFU"):
        read_tofu_log(written(tmp_path, log))


def test_a_log_with_a_missing_part_is_a_users_error(tmp_path: Path) -> None:
    log = small_log()
    del log["eval_log_forget.json"]["num_token_perturb"]
    with pytest.raises(UserError, match=r"missing or of another form: KeyError\('num_token_perturb'\)"):
        read_tofu_log(written(tmp_path, log))


def test_no_file_and_no_json_are_users_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_tofu_log(tmp_path / "nowhere.json")
    (tmp_path / "log.json").write_text("{")
    with pytest.raises(UserError, match="no readable JSON"):
        read_tofu_log(tmp_path / "log.json")
