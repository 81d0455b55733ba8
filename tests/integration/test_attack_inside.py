"""Attacks that look inside, on real Ray with tiny models: the scale's two ends, and what is made once."""

from pathlib import Path

import pytest

from obliviate.errors import UserError
from obliviate.inference.task import in_task
from obliviate.models import load_tokenizer
from obliviate.schema import EngineSpec, ModelSpec
from obliviate_eval.records import RECORDS_FILE, read_records
from obliviate_eval.robustness import ROBUSTNESS_FILE, Outcome, Robustness
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.events import QUIET
from obliviate_recipes.stage import Stage, all_of
from recipes import Told
from tiny import tiny_model_folder

pytestmark = pytest.mark.integration

LOOKS = ("patch", "lens", "probe", "orthogonalise")


def _config(folder: Path, **others: object) -> AttackRun:
    models = [str(tiny_model_folder(folder / f"model-{seed}", seed=seed)) for seed in range(3)]
    values: dict[str, object] = {
        "model": {"source": models[0], "compute_dtype": "float32"},
        "retain_model": {"source": models[1], "compute_dtype": "float32"},
        "models": {"forgot": {"source": models[2], "compute_dtype": "float32"}},
        "data": {"type": "fictitious", "people": 6, "forget_people": 4, "questions_per_person": 3,
                 "eval_retain_limit": 2},
        "attacks": [*({"type": name} for name in LOOKS), {"type": "embedding", "tokens": 3, "iterations": [1, 4]},
                    {"type": "gcg", "tokens": 3, "iterations": [1, 4], "width": 8, "rows": 2}],
        "budget": {"utility_drop": 1.0},
        "evaluation": {"suite": "robustness", "engine": {"type": "hf", "dtype": "float32"},
                       "generation": {"max_new_tokens": 4}},
        "runs": str(folder / "runs"),
    }  # fmt: skip
    return AttackRun.model_validate({**values, **others})


def _of(found: Robustness, model: str, measure: str) -> Outcome:
    [outcome] = [each for each in found.outcomes[model] if each.measure == measure and each.own_scale]
    return outcome


def _stages(recipe: Attacks, kind: str) -> list[Stage]:
    return [stage for stage in all_of(recipe.stages) if stage.kind == kind]


def test_looks_inside_have_a_scale_from_the_retain_model_to_the_original(ray_local: None, tmp_path: Path) -> None:
    config = _config(tmp_path)
    recipe = Attacks(config)
    found = Robustness.read(recipe.perform(QUIET).parent / ROBUSTNESS_FILE)
    for measure in ("patch", "lens"):
        assert _of(found, "retain", measure).recovery.after.value == pytest.approx(0, abs=1e-4)
        assert _of(found, "original", measure).recovery.known.value == pytest.approx(1, abs=1e-4)

    # What the original and the retain model hold is looked up once for all models.
    assert [len(_stages(recipe, kind)) for kind in ("held", "depth", "means", "orthogonalise")] == [1, 3, 1, 3]
    for stage in _stages(recipe, "depth"):
        records = read_records(stage.run.directory / RECORDS_FILE)
        assert [record.index for record in records] == list(range(6))
        for record in records:
            assert set(record.logged) <= {"patch", "lens", "in_top"}
            assert all(0 <= score <= 1 for score in record.logged.values())
    for stage in _stages(recipe, "probed"):
        scores = [record.logged["probe"] for record in read_records(stage.run.directory / RECORDS_FILE)]
        assert len(scores) == 6
        assert all(0 <= score <= 1 for score in scores)

    # The original moved nowhere: nothing is taken out of its states.
    settings = {outcome.setting for outcome in found.outcomes["original"]}
    assert {"orthogonalise, all layers", "orthogonalise, the layer that moved furthest"} < settings
    [plain] = [stage for stage in _stages(recipe, "records") if stage.label == "original"]
    [changed] = [stage for stage in _stages(recipe, "orthogonalise") if stage.label == "original"]
    answers = [
        [answer.logp for record in read_records(file) for scored in record.answers.values() for answer in scored]
        for file in (plain.run.directory / RECORDS_FILE, changed.run.directory / "records-all.parquet")
    ]
    for one, other in zip(*answers, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    for stage in _stages(recipe, "orthogonalise"):
        if stage.label == "forgot":
            both = [read_records(stage.run.directory / f"records-{name}.parquet") for name in ("all", "all-mean")]
            assert both[0] != both[1]

    for stage in _stages(recipe, "gcg"):
        once, often = (read_records(stage.run.directory / f"records-{count}.parquet") for count in (1, 4))
        suffixes = stage.run.summary["suffixes"]
        for count, records in (("1", once), ("4", often)):
            assert all(record.question.endswith(suffixes[count]) for record in records)
    for stage in _stages(recipe, "embedding"):
        once, often = (read_records(stage.run.directory / f"records-{count}.parquet") for count in (1, 4))
        assert len(once) == len(often)
        assert once != often

    again = Told()
    assert Robustness.read(Attacks(config).perform(again).parent / ROBUSTNESS_FILE) == found
    assert "done already" in again.text


def test_depth_needs_the_retain_model_and_a_probe_false_answers(tmp_path: Path) -> None:
    for name in ("patch", "lens"):
        config = _config(tmp_path, control="none", retain_model=None, attacks=[{"type": name}])
        with pytest.raises(UserError, match=rf"^attacks\.{name}: depth is told beside the retain model: set control"):
            _ = Attacks(config).stages
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"question": "Who is {i}?", "answer": "Ann {i}"}}\n' for i in range(6)))
    config = _config(tmp_path, attacks=[{"type": "probe"}], data={"type": "files", "forget": str(rows)})
    with pytest.raises(UserError, match=r"^attacks\.probe: 0 of the forget rows have false answers .*; give more"):
        _ = Attacks(config).stages


def test_models_of_other_shapes_are_refused(tmp_path: Path) -> None:
    other = tiny_model_folder(tmp_path / "deeper", layers=3)
    config = _config(
        tmp_path, models={"deeper": {"source": str(other), "compute_dtype": "float32"}}, attacks=[{"type": "patch"}]
    )
    with pytest.raises(UserError, match=r"deeper has 3 layers of 32 numbers .* and original 2 layers"):
        Attacks(config).perform(QUIET)


def test_a_mistake_inside_a_task_is_the_users_still(ray_local: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.source: .* no tokenizer could be loaded"):
        in_task(EngineSpec(type="hf"), None, load_tokenizer, ModelSpec(source=str(tmp_path)))


@pytest.mark.parametrize(("length", "most"), [(512, 236), (120, 16)])  # the vocabulary's rest, and the limit's
def test_control_tokens_have_room_and_are_no_texts(length: int, most: int, tmp_path: Path) -> None:
    def first(tokens: int) -> Stage:
        config = _config(tmp_path, attacks=[{"type": "embedding", "tokens": tokens}])
        engine = config.evaluation.engine.model_copy(update={"max_model_len": length})
        evaluation = config.evaluation.model_copy(update={"engine": engine})
        return _stages(Attacks(config.model_copy(update={"evaluation": evaluation})), "embedding")[0]

    first(most).check()
    with pytest.raises(UserError, match=rf"attacks\.embedding\.tokens: {most + 1}: \w+ has room.*give {most} at most"):
        first(most + 1).check()
