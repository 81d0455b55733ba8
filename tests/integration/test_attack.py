"""Attacks on real Ray with tiny models: what they leave behind, what they find again, and what must hold."""

import re
from pathlib import Path

import pytest

from obliviate.config import build
from obliviate.data.fictitious import FictitiousData
from obliviate.errors import UserError
from obliviate_eval.records import read_records, records_file
from obliviate_eval.robustness import ROBUSTNESS_FILE, Robustness
from obliviate_recipes import run
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.attacks.relearn import Relearned
from obliviate_recipes.attacks.split import Split, SplitSpec
from obliviate_recipes.events import QUIET
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.work import Recipes
from obliviate_recipes.stage import all_of
from recipes import Told, made
from tiny import tiny_model_folder

pytestmark = pytest.mark.integration


def _config(folder: Path, **others: object) -> AttackRun:
    models = [str(tiny_model_folder(folder / f"model-{seed}", seed=seed)) for seed in range(3)]
    values: dict[str, object] = {
        "model": {"source": models[0], "compute_dtype": "float32"},
        "retain_model": {"source": models[1], "compute_dtype": "float32"},
        "models": {"forgot": {"source": models[2], "compute_dtype": "float32"}},
        "data": {"type": "fictitious", "people": 4, "questions_per_person": 2, "eval_retain_limit": 2},
        "attacks": [{"type": "relearn", "learning_rates": [1e-2, 1e-30], "steps": [1, 3], "batch_size": 2}],
        "budget": {"utility_drop": 1.0},
        "evaluation": {"suite": "robustness", "engine": {"type": "hf", "dtype": "float32"},
                       "generation": {"max_new_tokens": 4}},
        "runs": str(folder / "runs"),
    }  # fmt: skip
    return AttackRun.model_validate({**values, **others})


def _robustness(recipe: Attacks, events: Told | None = None) -> Robustness:
    return Robustness.read(recipe.perform(events or QUIET).with_name(ROBUSTNESS_FILE))


@pytest.mark.cluster
def test_relearning_is_measured_along_the_way_and_found_again(ray_local: None, tmp_path: Path) -> None:
    config = _config(tmp_path)
    told = Told()
    found = _robustness(Attacks(config), told)
    assert set(found.models) == {"original", "retain", "forgot"}
    assert (found.control, found.split, found.attacked, found.items) == ("retain", "entity", 2, 2)
    settings = {outcome.setting for outcome in found.outcomes["forgot"]}
    assert {"relearn forget, rate 0.01, 1 steps", "relearn forget, rate 0.01, 3 steps", "asked as usual"} < settings
    for outcome in found.outcomes["retain"]:
        assert outcome.recovery.excess.value in (None, pytest.approx(0, abs=1e-9))
    assert "V has 2 items: too few" in told.text
    for outcome in found.outcomes["forgot"]:  # an attack of no strength
        if "1e-30" in outcome.setting:
            assert outcome.recovery.after.value == outcome.recovery.before.value
            assert outcome.recovery.excess.value in (None, 0)

    folder = Attacks(config).stages[-1].run.directory
    assert "forgot: recovered by training" not in (folder / "summary.md").read_text(encoding="utf-8")
    assert "- **forgot**: " in (folder / "summary.md").read_text(encoding="utf-8")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Excess recovery, attack by model" in page
    assert "forgot: recovered by training" in page

    stages = [stage for stage in all_of(Attacks(config).stages) if isinstance(stage, Relearned)]
    assert len(stages) == 3
    for stage in stages:
        assert stage.done
        for point in stage.points:
            folder = stage.run.directory / point.folder
            assert not (folder / "checkpoints").exists()
            before, after = (read_records(folder / f"records-{steps}.parquet") for steps in (0, 3))
            assert [record.set for record in before] == [record.set for record in after]
            assert (before != after) == (point.rate > 1e-3)
    tables = run(config.model_dump(mode="json"), recipe="attack", events=QUIET)
    assert list(tables.scores["model"]) == list(found.models)
    assert set(tables.outcomes["setting"]) == settings
    one = found.outcomes["forgot"][0]
    row = tables.outcomes.query("model == 'forgot' and attack == 'none' and measure == 'key_probability'").iloc[0]
    before = one.recovery.before.value
    assert row["before"] == pytest.approx(float("nan") if before is None else before, nan_ok=True)
    assert set(tables.figures["model"]) == set(found.models)
    again = Told()
    assert _robustness(Attacks(config), again) == found
    assert "relearn" not in again.text.partition("done already")[0]
    # Before its first step a training sees what an engine sees.
    [records] = [stage for stage in all_of(Attacks(config).stages) if stage.title == "records forgot"]
    engine = read_records(records.run.directory / "records.parquet")
    [mine] = [stage for stage in stages if stage.target.name == "forgot"]
    trained = read_records(mine.run.directory / mine.points[0].folder / "records-0.parquet")
    for one, other in zip(engine, trained, strict=True):
        assert one.generation == other.generation
        for probe, answers in one.answers.items():
            for answer, same in zip(answers, other.answers[probe], strict=True):
                assert answer.logp == pytest.approx(same.logp, abs=1e-4)
                assert answer.greedy == same.greedy


@pytest.mark.cluster
def test_two_workers_see_what_one_sees(ray_local: None, tmp_path: Path) -> None:
    """Both train alike, and look at the sharded model together."""
    found = {}
    for workers in (1, 2):
        cluster = {"workers": workers, "cpus_per_worker": 0.5}
        config = _config(tmp_path, cluster=cluster, runs=str(tmp_path / f"runs-{workers}"))
        [stage] = [
            each
            for each in all_of(Attacks(config).stages)
            if isinstance(each, Relearned) and each.target.name == "forgot"
        ]
        folder = made(stage) / stage.points[0].folder
        found[workers] = [read_records(folder / records_file(steps)) for steps in (0, 1, 3)]
    for one, two in zip(found[1], found[2], strict=True):
        for record, other in zip(one, two, strict=True):
            assert record.generation == other.generation
            for probe, answers in record.answers.items():
                for answer, same in zip(answers, other.answers[probe], strict=True):
                    assert answer.logp == pytest.approx(same.logp, abs=1e-4)


def test_t_and_v_are_disjoint_by_entity_where_there_are_several_and_by_row_else() -> None:
    corpus = FictitiousData(people=6, forget_people=4, questions_per_person=3).load()
    for seed in range(3):
        split = Split.of(corpus, SplitSpec(seed=seed))
        assert split.by == "entity"
        assert not {row.entity for row in split.attacked} & {row.entity for row in split.measured}
        assert len(split.attacked) == len(split.measured) == 6
    assert Split.of(corpus, SplitSpec()) == Split.of(corpus, SplitSpec())
    alone = FictitiousData(people=6, forget_people=1, questions_per_person=4).load()
    split = Split.of(alone, SplitSpec(share=0.75))
    assert (split.by, len(split.attacked), len(split.measured)) == ("row", 3, 1)
    assert not {row.question for row in split.attacked} & {row.question for row in split.measured}
    with pytest.raises(UserError, match=r"split.by: entity: the forget rows name 1"):
        Split.of(alone, SplitSpec(by="entity"))
    single = FictitiousData(people=2, forget_people=1, questions_per_person=1).load()
    with pytest.raises(UserError, match=r"leave 0 to attack with and 1 to measure|leave 1 to attack with and 0"):
        Split.of(single, SplitSpec())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"retain_model": None}, "retain_model: attacks are compared with a model that never saw the forget set"),
        ({"models": {}}, "models: nothing to attack"),
        ({"attacks": [{"type": "relearn"}, {"type": "relearn"}]}, "attacks: two are called relearn forget"),
        ({"attacks": [{"type": "relearn", "steps": [5, 1]}]}, "give rising numbers of steps"),
        ({"attacks": [{"type": "relearn", "learning_rates": [0]}]}, "greater than 0"),
        ({"attacks": [{"type": "relearn", "seeds": [1, 1]}]}, "holds one twice"),
        ({"attacks": [{"type": "ask", "formats": ["cloze", "cloze"]}]}, "holds one twice"),
        ({"attacks": [{"type": "sample", "k": [1, 1]}]}, "holds one twice"),
        ({"models": {"retain": {"source": "m"}}}, "models: retain is what figures call the retain model; give another"),
        ({"models": {"original": {"source": "m"}}}, "models: original is what figures call the original model"),
    ],
)
def test_mistakes_are_told_by_their_keys(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        _config(tmp_path, **changed)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"type": "prune", "by": "size"}, "attacks.0.by: should be 'magnitude' or 'wanda' (got 'size')"),
        ({"type": "prune", "shares": [0]}, "attacks.0.shares.0: should be greater than 0 (got 0)"),
        ({"type": "prune", "shares": []}, "attacks.0.shares: has none; give at least 1"),
        (
            {"type": "prune", "by": "size", "rows": 0},
            "attacks.0.by: should be 'magnitude' or 'wanda' (got 'size') (and 1 more)",
        ),
    ],
)
def test_one_mistake_is_one(attack: dict[str, object], message: str, tmp_path: Path) -> None:
    """The list of attacks is not too short besides, because the one in it is wrong."""
    values = {**_config(tmp_path).model_dump(mode="json"), "attacks": [attack]}
    with pytest.raises(UserError, match=f"^{re.escape(f'run.yaml: {message}')}$"):
        build(AttackRun, values, where="run.yaml")


def test_a_format_without_rows_is_told_by_its_key(tmp_path: Path) -> None:
    recipe = Attacks(_config(tmp_path, attacks=[{"type": "ask", "formats": ["translated"]}]))
    with pytest.raises(UserError, match=r"^attacks\.ask\.formats: translated: nothing to ask"):
        _ = recipe.stages


def test_an_attack_needs_what_it_trains_on(tmp_path: Path) -> None:
    nothing_kept = {"type": "fictitious", "people": 2, "forget_people": 2, "questions_per_person": 2}
    recipe = Attacks(_config(tmp_path, data=nothing_kept, attacks=[{"type": "relearn", "texts": "retain"}]))
    with pytest.raises(UserError, match=r"attacks.relearn.texts: retain: the data has no retain set"):
        _ = recipe.stages
    measured = tmp_path / "rows.jsonl"
    row = recipe.corpus.evaluation[0].rows[-1]
    measured.write_text(f'{{"question": "{row.question}", "answer": "{row.answer}"}}\n', encoding="utf-8")
    everything = _config(
        tmp_path, attacks=[{"type": "relearn", "texts": str(measured)}], split={"by": "row", "share": 0.1}
    )
    with pytest.raises(UserError, match="of its rows are measured; take them out"):
        _ = Attacks(everything.model_copy(update={"data": recipe.config.data})).stages


def test_a_suite_that_tells_nothing_of_facts_is_refused(tmp_path: Path) -> None:
    evaluation = {"suite": {"metrics": ["self_bleu"]}, "engine": {"type": "hf"}}
    with pytest.raises(UserError, match=r"has none of key_probability, .*: take the suite robustness"):
        Attacks(_config(tmp_path, evaluation=evaluation)).perform(QUIET)


def test_a_request_is_told_what_attacks_bring_back(ray_local: None, tmp_path: Path) -> None:
    """Of a batch's own texts, and nothing of one text alone."""
    corpus = FictitiousData(people=4, questions_per_person=2).load()
    models = [str(tiny_model_folder(tmp_path / f"model-{seed}", seed=seed)) for seed in range(2)]
    values = {
        "model": {"source": models[0], "compute_dtype": "float32"}, "data": {"type": "fictitious", "people": 4},
        "method": "me+gd", "ledger": str(tmp_path / "ledger.sqlite"), "key": str(tmp_path / "key.pem"),
        "policy": {"forget": {"rouge": {"max": 1, "allow": True}},
                   "utility": {"retain.rouge": {"min": 0, "allow": True}}},
        "attacks": [{"type": "relearn", "name": "relearn", "learning_rates": [1e-2], "steps": [1], "batch_size": 2}],
        "budget": {"utility_drop": 1.0}, "runs": str(tmp_path / "runs"),
        "evaluation": {"engine": {"type": "hf", "dtype": "float32"}, "generation": {"max_new_tokens": 4}},
    }  # fmt: skip
    told = Told()
    work = Recipes(build(RequestsRun, values, where="test"), told)
    kept = [each for each in corpus.evaluation if each.name == "retain"]
    found = work.attack("batch-1", models[1], models[0], corpus.forget, None, kept)
    assert {"relearn.key_probability", "relearn.key_said"} <= set(found)
    assert work.attack("batch-2", models[1], models[0], corpus.forget[:1], None, kept) == {}
    assert "nothing can be told of so few texts" in told.text
