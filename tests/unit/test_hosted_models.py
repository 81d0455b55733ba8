"""Hosted models in recipes: evaluated, asked in other forms and sampled over a server; never trained or opened."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hosting import COMPLETIONS, SAID, Hosted, hosting, spec_of
from obliviate.config_file import build
from obliviate.errors import UserError
from obliviate.runs import RUN_FILE
from obliviate.schema import EngineSpec
from obliviate_cli.plan_command import Offer, plan
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.summary import METRICS_FILE
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.attacks.spec import ATTACK_TYPES
from obliviate_recipes.comparison import Compare, CompareRun
from obliviate_recipes.evaluation import Evaluate, EvaluateRun
from obliviate_recipes.events import QUIET
from recipes import Told

PRICES = {"prompt": 1.0, "completion": 10.0}
UNJUDGED = {"encoder": None, "nli": None, "fluency": None, "resamples": 100}


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    with hosting() as found:
        yield found


def values(hosted: Hosted, tiny: Path, folder: Path, **keys: Any) -> dict[str, Any]:
    endpoint = spec_of(hosted, concurrency=2, **keys).model_dump(mode="json")
    return {
        "models": {"behind": {"source": str(tiny), "endpoint": endpoint}},
        "data": {"type": "fictitious", "people": 4, "forget_people": 2, "questions_per_person": 3},
        "evaluation": {"suite": "robustness", "generation": {"max_new_tokens": 8}, **UNJUDGED},
        "runs": str(folder / "runs"),
    }


def evaluate(config: dict[str, Any]) -> Evaluate:
    return Evaluate(build(EvaluateRun, config, where="run.yaml"))


def figures_in(folder: Path) -> Any:
    return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))


def test_a_hosted_model_is_evaluated_once_however_fast(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    config = values(hosted, tiny, tmp_path)
    [folder] = evaluate(config).perform(QUIET)
    records = read_records(folder / RECORDS_FILE)
    assert {record.generation for record in records if record.set == "forget"} == {SAID}
    forget = figures_in(folder)["sets"]["forget"]
    assert forget["probability"]["scored"] == forget["rouge"]["scored"] == 6
    told = len(hosted.asked)
    for keys in ({"retries": 1, "timeout_s": 5.0}, {"requests_per_minute": 1e6}, {"price_per_million": PRICES}):
        assert evaluate(values(hosted, tiny, tmp_path, **keys)).perform(QUIET) == [folder]
    assert len(hosted.asked) == told
    [other] = evaluate(values(hosted, tiny, tmp_path, model="another")).perform(QUIET)
    assert other != folder
    recorded = json.loads((folder.parent / next(folder.parent.glob("records-*")).name / RUN_FILE).read_text())
    assert set(recorded["config"]["model"]["endpoint"]) == {"base_url", "model"}
    assert recorded["config"]["engine"] == {"max_model_len": EngineSpec().max_model_len}


def test_refused_texts_are_counted_in_a_warning(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    config = values(hosted, tiny, tmp_path)
    prompts: list[list[int]] = []

    def refuses(_: str, body: dict[str, Any]) -> int | None:
        if "echo" in body or len(prompts) > 2:
            return None
        prompts.append(body["prompt"])
        return 400 if len(prompts) == 2 else None  # the first is the trial

    hosted.refuses = refuses
    told = Told()
    evaluate(config).perform(told)
    assert "behind: 1 texts were refused for good, and count as empty answers or as unscored" in told.text


def test_a_run_that_was_broken_off_asks_only_for_what_is_missing(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    config = values(hosted, tiny, tmp_path, price_per_million=PRICES, budget=0.0025)  # twelve requests and the trial
    with pytest.raises(UserError, match=r"model.endpoint.budget: 0.0025: is used up"):
        evaluate(config).perform(QUIET)
    first = [json.dumps(body, sort_keys=True) for body in hosted.bodies[1:]]
    hosted.asked.clear()
    evaluate(values(hosted, tiny, tmp_path)).perform(QUIET)
    second = [json.dumps(body, sort_keys=True) for body in hosted.bodies]
    assert len(first) >= 12
    trials = {second[0], *(body for body in second if "France" in body)}
    assert not {body for body in first if "echo" not in body} & set(second) - trials


def test_without_log_probabilities_one_warning_names_what_cannot_be_measured(
    hosted: Hosted, tiny: Path, tmp_path: Path
) -> None:
    hosted.scores, told = "", Told()
    [folder] = evaluate(values(hosted, tiny, tmp_path)).perform(told)
    [line] = [line for line in told.text.splitlines() if "gives no log-probabilities" in line]
    assert "key_probability" in line
    assert "probability" in line
    assert "key_said" not in line
    assert "rouge" not in line
    forget = figures_in(folder)["sets"]["forget"]
    assert (forget["probability"]["value"], forget["probability"]["unscored"]) == (None, 6)
    assert forget["rouge"]["scored"] == forget["key_said"]["scored"] == 6


def test_what_looks_at_a_whole_distribution_is_refused_before_anything_is_asked(
    hosted: Hosted, tiny: Path, tmp_path: Path
) -> None:
    config = values(hosted, tiny, tmp_path)
    config["evaluation"]["suite"] = {"metrics": [{"type": "rouge"}, {"type": "min_k_plus_plus_loss"}]}
    with pytest.raises(UserError, match=r"evaluation.suite: .*: min_k_plus_plus_loss need a model's weights"):
        evaluate(config).perform(QUIET)
    assert hosted.asked == []


def attack(hosted: Hosted, tiny: Path, folder: Path, *attacks: dict[str, Any]) -> Attacks:
    endpoint = spec_of(hosted, concurrency=2).model_dump(mode="json")
    model = {"source": str(tiny), "endpoint": endpoint}
    config = values(hosted, tiny, folder) | {
        "model": {"source": str(tiny), "endpoint": {**endpoint, "model": "first"}},
        "models": {"behind": model},
        "retain_model": {"source": str(tiny), "endpoint": {**endpoint, "model": "never"}},
        "attacks": list(attacks),
    }
    return Attacks(build(AttackRun, config, where="run.yaml"))


def test_it_is_asked_in_other_forms_and_sampled(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    sample = {"type": "sample", "samples": 4, "k": [1, 4]}
    report = attack(hosted, tiny, tmp_path, {"type": "ask", "formats": ["cloze"]}, sample).perform(QUIET)
    assert report.is_file()
    assert {body["model"] for body in hosted.bodies} == {"first", "never", "hosted"}
    assert {body.get("n") for body in hosted.bodies} == {1, 4, None}  # None: scored
    assert {path for path, _ in hosted.asked} == {COMPLETIONS}


@pytest.mark.parametrize("kind", sorted(ATTACK_TYPES.keys() - {"ask", "sample"}))
def test_attacks_that_need_weights_are_refused_before_anything_is_asked(
    hosted: Hosted, tiny: Path, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(UserError, match=r"model.endpoint: .* is hosted, and this needs its weights"):
        attack(hosted, tiny, tmp_path, {"type": kind}).perform(QUIET)
    assert hosted.asked == []
    assert not (tmp_path / "runs").exists()


def test_it_is_not_trained(hosted: Hosted, tiny: Path, tmp_path: Path) -> None:
    config = values(hosted, tiny, tmp_path)
    config["model"] = config.pop("models")["behind"]
    config |= {"finetune": None, "retain_model": None, "methods": [{"method": "npo+gd"}]}
    run = build(CompareRun, config, where="run.yaml")
    with pytest.raises(UserError, match=r"model.endpoint: hosted is hosted, and this needs its weights"):
        list(Compare(run).outline())


def test_dry_run_and_plan_say_what_would_be_asked_and_what_that_costs(
    hosted: Hosted, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first set's questions and answers are generated for and scored; every generation may have 8 tokens."""
    import yaml

    config = values(hosted, tiny, tmp_path, price_per_million=PRICES)
    recipe = evaluate(config)
    [line] = [line for line in recipe.outline() if line.startswith("ask behind")]
    [asked] = recipe.requested()
    assert line == str(asked)
    assert asked.cost == pytest.approx((asked.prompt_tokens + 10 * asked.completion_tokens) / 1e6)
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    plan(path, [], Offer("h100", None, 8, 3200, 0.4, None))
    assert f"{asked.requests} requests" in capsys.readouterr().out
    assert hosted.asked == []
    recipe.perform(QUIET)
    trials = 2
    assert len(hosted.asked) - trials == asked.requests
    generated = sum(body["max_tokens"] for body in hosted.bodies if not body.get("echo")) - 1
    assert generated == asked.completion_tokens
