"""Attacks that ask in other forms, and often, on tiny models."""

from pathlib import Path

import pytest

from obliviate.errors import UserError
from obliviate_eval.records import read_records
from obliviate_eval.robustness import ROBUSTNESS_FILE, Robustness
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.attacks.ask import Forms
from obliviate_recipes.attacks.sample import Sampled
from obliviate_recipes.stage import all_of
from recipes import Told
from tiny import tiny_model_folder


def config(folder: Path, *attacks: dict[str, object], **evaluation: object) -> AttackRun:
    original, retain, forgot = (
        {"source": str(tiny_model_folder(folder / f"model-{seed}", seed=seed))} for seed in range(3)
    )
    return AttackRun.model_validate(
        {
            "model": original,
            "retain_model": retain,
            "models": {"forgot": forgot},
            "data": {"type": "fictitious", "people": 6, "forget_people": 2, "questions_per_person": 3},
            "attacks": list(attacks),
            "evaluation": {"suite": "robustness", "engine": {"type": "hf", "dtype": "float32"},
                           "generation": {"max_new_tokens": 4}, "resamples": 100, **evaluation},
            "runs": str(folder / "runs"),
        }
    )  # fmt: skip


def robustness(recipe: Attacks, events: Told) -> Robustness:
    return Robustness.read(recipe.perform(events).with_name(ROBUSTNESS_FILE))


@pytest.mark.cluster
def test_other_forms_and_samples(ray_local: None, tmp_path: Path) -> None:
    asked = config(tmp_path, {"type": "ask"}, {"type": "sample", "samples": 3, "k": [1, 3]})
    told = Told()
    found = robustness(Attacks(asked), told)
    outcomes = {(each.setting, each.measure): each for each in found.outcomes["forgot"]}
    for setting in ("ask think_again", "ask prefix_sure", "ask cloze", "ask mixed_retain_first"):
        assert not outcomes[setting, "key_said"].own_scale
        assert outcomes[setting, "key_said"].recovery.items == found.items
    assert outcomes["ask multiple_choice_4", "accuracy"].own_scale
    assert all(outcomes[f"sample, {k} times", f"leak@{k}"].own_scale for k in (1, 3))
    assert not any(setting.endswith(("comprehension", "first_retain")) for setting, _ in outcomes)
    for each in found.outcomes["retain"]:
        assert each.recovery.excess.value in (None, pytest.approx(0, abs=1e-9))

    stages = {type(each): each for each in all_of(Attacks(asked).stages) if each.label == "forgot"}
    forms, sampled = stages[Forms], stages[Sampled]
    assert isinstance(forms, Forms)
    assert Evaluation.read(forms.run.directory / METRICS_FILE).sets["comprehension"]["rouge"].scored == found.items
    assert "forgot: still to be answered, ROUGE-L recall: comprehension" in told.text
    records = read_records(forms.run.directory / "records.parquet")
    for each in forms.asked.sets:
        of_set = [record.question for record in records if record.set == each.name]
        assert of_set == [row.question for row in each.rows]
        if each.name == "prefix_sure":
            assert of_set == [forms.scene.split.measured[item].question for item in forms.asked.items[each.name]]
    records = read_records(sampled.run.directory / "records.parquet")
    assert len(records) == found.items
    for record in records:
        assert len(record.samples) == 3
        assert record.logged["leak@1"] <= record.logged["leak@3"]
    again = Told()
    assert robustness(Attacks(asked), again) == found
    assert "done already" in again.text


def test_what_does_not_fit_is_left_out_and_told(tmp_path: Path) -> None:
    engine = {"type": "hf", "dtype": "float32", "max_model_len": 200}
    recipe = Attacks(config(tmp_path, {"type": "ask", "formats": ["few_shot", "framing"]}, engine=engine))
    stages = [each for each in all_of(recipe.stages) if isinstance(each, Forms)]
    assert len(stages) == 3
    for stage in stages:
        assert stage.asked.items["few_shot"] == ()
        assert "few_shot: 3 of 3 rows are left out: too long for the model" in stage.asked.warnings
        assert stage.asked.items["framing_authority"] == (0, 1, 2)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="formats: translated: nothing to ask"):
        _ = Attacks(config(tmp_path, {"type": "ask", "formats": ["translated"]})).stages
    with pytest.raises(ValueError, match=r"analogies: is no format; did you mean analogy\?"):
        config(tmp_path, {"type": "ask", "formats": ["analogies"]})
    with pytest.raises(ValueError, match=r"k: 8: give 1 to samples \(4\), or raise samples"):
        config(tmp_path, {"type": "sample", "samples": 4, "k": [1, 8]})
    with pytest.raises(UserError, match=r"attacks\.sample\.by: entailment: samples are judged by evaluation\.nli"):
        _ = Attacks(config(tmp_path, {"type": "sample", "by": "entailment"}, nli=None)).stages
