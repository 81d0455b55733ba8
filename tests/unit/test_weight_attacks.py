"""Attacks that change weights without training: what they write, what is measured of it, and what they refuse."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe import moe_folder
from obliviate.config import build
from obliviate.data.fictitious import FictitiousData
from obliviate.errors import UserError
from obliviate.quantise import quantised
from obliviate.runs import DONE_FILE
from obliviate.schema import ClusterSpec, EngineSpec, GenerationSpec, LoraSpec, ModelSpec
from obliviate.weights import WEIGHTS
from obliviate_eval.records import read_records
from obliviate_eval.robustness import ROBUSTNESS_FILE, Outcome, Robustness
from obliviate_eval.spec import EvaluationSpec
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.attacks.base import Attack, Attempt, Scene, Target
from obliviate_recipes.attacks.distance import DISTANCE_FILE, Distance
from obliviate_recipes.attacks.merge_back import MergeBack
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.attacks.prune import NORMS_FILE, Prune
from obliviate_recipes.attacks.quantise import Quantise
from obliviate_recipes.attacks.rewritten import Rewritten
from obliviate_recipes.attacks.split import Split, SplitSpec
from obliviate_recipes.events import QUIET
from obliviate_recipes.stage import all_of
from obliviate_recipes.stages.measure import Measuring
from recipes import Told, made
from tiny import tiny_model_folder

LINEAR = "model.layers.0.mlp.down_proj.weight"
ROUNDED = ("quantise bf16", "quantise int4_g128")
Attacked = Callable[..., Robust]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    corpus = FictitiousData(people=6, questions_per_person=2, forget_people=4, eval_retain_limit=2).load()
    split = Split.of(corpus, SplitSpec())
    spec = EvaluationSpec(
        suite="robustness", engine=EngineSpec(type="hf", dtype="float32"), generation=GenerationSpec(max_new_tokens=2),
        encoder=None, nli=None, fluency=None, resamples=100,
    )  # fmt: skip
    measuring = Measuring(split.corpus(corpus), spec, None, str(tmp_path / "runs"), within=True)
    original, retain = (_target(tmp_path, name, seed) for seed, name in enumerate(("original", "retain")))
    return Scene(split, measuring, ClusterSpec(), 0, original, retain)


def _target(folder: Path, name: str, seed: int) -> Target:
    model = tiny_model_folder(folder / name, seed=seed)
    return Target(name, ModelSpec(source=str(model), lora=LoraSpec(merge=False)))


@pytest.fixture
def attacked(scene: Scene, tmp_path: Path) -> Attacked:
    forgot = _target(tmp_path, "forgot", 2)
    return lambda *attacks: Robust("test", scene, attacks, (forgot,), 1.0)


def outcomes(robust: Robust, model: str) -> dict[str, Outcome]:
    """Of the measure that comes first, by setting."""
    found = Robustness.read(made(robust) / ROBUSTNESS_FILE).outcomes[model]
    return {each.setting: each for each in found if each.measure == "key_probability"}


def logps(attempt: Attempt) -> Tensor:
    """Of all answers under the attack."""
    records = read_records(attempt.after.path)
    return torch.tensor(
        [p for record in records for scored in record.answers.values() for one in scored for p in one.logp]
    )


def rewritten(robust: Robust) -> dict[tuple[str, str], dict[str, Tensor]]:
    """(model, change) -> its weights, made again: none of these models is kept once it is measured."""
    stages = [stage for stage in all_of([robust]) if isinstance(stage, Rewritten)]
    assert not any(each.folder.exists() for each in stages)
    for each in stages:
        each.make(each.run, QUIET)
    return {(each.target.name, each.change): load_file(each.folder / WEIGHTS) for each in stages}


def weights(robust: Robust, name: str) -> dict[str, Tensor]:
    [target] = [each for each in robust.everyone if each.name == name]
    return load_file(Path(target.model.source) / WEIGHTS)


def test_every_format_is_a_model_that_is_measured(attacked: Attacked) -> None:
    robust = attacked(Quantise(formats=("bf16", "int4_g128")))
    found = outcomes(robust, "forgot")
    assert {"asked as usual", *ROUNDED} < set(found)
    models = rewritten(robust)
    assert len(models) == 6
    for name in ("original", "retain", "forgot"):
        before = weights(robust, name)
        assert torch.equal(models[name, "int4_g128"][LINEAR], quantised(before[LINEAR], "int4_g128").values)
        assert torch.equal(models[name, "bf16"][LINEAR], before[LINEAR].bfloat16())
    [plain, rounded, coarse] = (
        logps(robust.attempts[attack, "forgot"][index])
        for attack, index in (("none", 0), ("quantise", 0), ("quantise", 1))
    )
    assert 0 < (rounded - plain).abs().mean() < (coarse - plain).abs().mean()
    assert found["quantise int4_g128"].utility_drop is not None
    distances = {stage.target.name: stage for stage in all_of([robust]) if isinstance(stage, Distance)}
    assert set(distances) == {"retain", "forgot"}
    recoded = distances["forgot"].run.summary["recoded"]
    assert set(recoded) == {"int4_g128"}  # bf16 has no codes
    assert recoded["int4_g128"] > 0.5  # random weights, both
    assert all(each.recovery.excess.value in (None, 0) for each in outcomes(robust, "retain").values())


def test_calibrated_formats_read_the_retain_set(attacked: Attacked) -> None:
    robust = attacked(
        Quantise(by="gptq", rows=3), Quantise(by="awq", rows=3), Quantise(formats=("int4_g128",), name="nearest")
    )
    assert {"quantise gptq int4_g128", "quantise awq int4_g128", "nearest int4_g128"} < set(outcomes(robust, "forgot"))
    models = rewritten(robust)
    for name in ("original", "retain", "forgot"):
        found = [models[name, change] for change in ("gptq-int4_g128", "awq-int4_g128", "int4_g128")]
        assert len({tuple(model[LINEAR].flatten().tolist()) for model in found}) == 3


def test_a_model_that_is_gone_is_made_again_to_be_measured(attacked: Attacked) -> None:
    robust = attacked(Quantise(formats=("int4_g128",)))
    made(robust)
    [attempt] = robust.attempts["quantise", "forgot"]
    before = logps(attempt)
    for stage in (attempt.after.stage, robust):
        (stage.run.directory / DONE_FILE).unlink()
    attempt.after.path.unlink()
    made(robust)
    assert torch.equal(logps(attempt), before)


def test_how_far_a_model_lies_from_the_original_is_said(tmp_path: Path) -> None:
    """One that changed in a layer, one that did not, and one that is no state of it."""
    original, other = (_target(tmp_path, name, seed) for seed, name in enumerate(("original", "other")))
    near = Path(shutil.copytree(original.model.source, tmp_path / "near"))
    before = load_file(near / WEIGHTS)
    save_file({**before, LINEAR: before[LINEAR] * 2}, near / WEIGHTS, metadata={"format": "pt"})
    wide = tiny_model_folder(tmp_path / "wide", hidden_size=64)
    targets = [other, original, *(Target(each.name, ModelSpec(source=str(each))) for each in (near, wide))]
    stages = [Distance(each, original, ("int4_g128", "nf4"), str(tmp_path / "runs")) for each in targets]
    told = Told()
    folders = [made(stage, told) for stage in stages]
    found = json.loads((folders[2] / DISTANCE_FILE).read_text())
    assert found["layers"][LINEAR]["frobenius"] == pytest.approx(1)
    assert found["layers"][LINEAR]["recoded"] == {"int4_g128": 0, "nf4": 0}  # the step has grown as well
    assert found["layers"][LINEAR]["kept"] == pytest.approx({"int4_g128": 1, "nf4": 1}, abs=0.05)
    assert 0 < found["all"]["frobenius"] < 1
    assert "distance of near from the original: " in told.text
    assert "nf4: 0.00% of the codes differ, " in told.text
    assert "distance of original from the original: none: the weights are the same" in told.text
    assert "distance of wide from the original: " in told.text
    assert "they are no states of one model" in told.text
    assert not (folders[3] / DISTANCE_FILE).exists()


def test_magnitudes_go_in_each_layer(attacked: Attacked) -> None:
    robust = attacked(Prune(shares=(0.25, 0.5)))
    assert {"prune magnitude 0.25", "prune magnitude 0.5"} < set(outcomes(robust, "forgot"))
    for (_, change), model in rewritten(robust).items():
        assert int((model[LINEAR] == 0).sum()) == float(change.removeprefix("magnitude-")) * model[LINEAR].numel()


def test_wanda_reads_the_retain_set_once_for_all_shares(attacked: Attacked, scene: Scene) -> None:
    robust = attacked(Prune(by="wanda", shares=(0.25, 0.5), rows=3))
    assert {"prune wanda 0.25", "prune wanda 0.5"} < set(outcomes(robust, "forgot"))
    runs = sorted(Path(scene.runs).glob(f"norms-*/{NORMS_FILE}"))
    assert [run.parent.name.split("-")[1] for run in runs] == ["forgot", "original", "retain"]
    norms = load_file(runs[0])
    assert norms[LINEAR].shape == (64,)
    before, after = weights(robust, "forgot")[LINEAR], rewritten(robust)["forgot", "wanda-0.25"][LINEAR]
    scores = before.abs() * norms[LINEAR]
    assert ((after == 0) == (scores < scores.sort(1).values[:, 16:17])).all()
    assert json.loads((runs[0].parent / "done.json").read_text())["texts"] == 3


def test_a_quarter_of_the_way_back(attacked: Attacked) -> None:
    robust = attacked(MergeBack(shares=(0.25,)))
    found = outcomes(robust, "original")
    [attempt] = robust.attempts["merge_back", "original"]
    assert attempt.after == attempt.before
    assert found["merge_back 0.25"].utility_drop == 0
    models = rewritten(robust)
    assert set(models) == {("retain", "merge-0.25"), ("forgot", "merge-0.25")}
    original = weights(robust, "original")
    for (name, _), model in models.items():
        torch.testing.assert_close(model[LINEAR], 0.75 * weights(robust, name)[LINEAR] + 0.25 * original[LINEAR])


def test_what_cannot_be_rewritten_is_told_before_anything_is_made(scene: Scene, tmp_path: Path) -> None:
    moe = moe_folder(tmp_path / "experts", "granitemoe")
    experts = Target("experts", ModelSpec(source=str(moe), max_length=128))
    quantised_already = _target(tmp_path, "quantised", 3)
    config = Path(quantised_already.model.source) / "config.json"
    how = {"quant_method": "compressed-tensors"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": how}))
    for attack, target, message in (
        (Prune(by="wanda"), experts, r"experts\.gate_up_proj holds several experts.*prune by: magnitude"),
        (Quantise(by="gptq"), experts, r"experts\.gate_up_proj holds several experts.*quantise by: nearest"),
        (Quantise(), quantised_already, "quantised: is quantised already"),
        (Prune(), quantised_already, "quantised: is quantised already"),
    ):
        robust = Robust("test", scene, (attack,), (target,), 1.0)
        with pytest.raises(UserError, match=message):
            made(robust)
        assert not any(Path(scene.runs).glob("records-*"))


def test_wanda_needs_texts(scene: Scene) -> None:
    bare = replace(scene, split=replace(scene.split, retain=()))
    Prune().check(bare)
    with pytest.raises(UserError, match=r"attacks\.prune\.by: wanda: the data has no retain set"):
        Prune(by="wanda").check(bare)
    with pytest.raises(UserError, match=r"attacks\.quantise\.by: awq: .* give data\.retain, or by: nearest"):
        Quantise(by="awq").check(bare)


@pytest.mark.parametrize(
    ("attack", "values", "message"),
    [
        (Quantise, {"formats": ["nf4", "nf4"]}, "holds one twice"),
        (Quantise, {"formats": ["int2"]}, "Input should be 'bf16'"),
        (Quantise, {"formats": []}, "at least 1"),
        (Quantise, {"formats": ["nf4"], "by": "gptq"}, "nf4: gptq rounds to int8 and int4_g128"),
        (Prune, {"shares": [0.3, 0.3]}, "holds one twice"),
        (Prune, {"shares": [1.0]}, "less than 1"),
        (MergeBack, {"shares": [0.0]}, "greater than 0"),
    ],
)
def test_mistakes_are_told(attack: type[Attack], values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        attack.model_validate(values)


def test_from_a_config(tmp_path: Path) -> None:
    models = [{"source": str(tiny_model_folder(tmp_path / name, seed=seed))} for seed, name in enumerate("abc")]
    values = {
        "model": models[0],
        "retain_model": models[1],
        "models": {"forgot": models[2]},
        "data": {"type": "fictitious", "people": 4, "questions_per_person": 2, "eval_retain_limit": 2},
        "attacks": [{"type": "quantise", "formats": ["fp16"], "name": "half"}, {"type": "merge_back", "shares": [0.5]}],
        "evaluation": {"suite": "robustness", "engine": {"type": "hf", "dtype": "float32"},
                       "generation": {"max_new_tokens": 2}, "encoder": None, "nli": None, "fluency": None},
        "runs": str(tmp_path / "runs"),
    }  # fmt: skip
    recipe = Attacks(build(AttackRun, values, where="test"))
    robust = recipe.stages[-1]
    assert isinstance(robust, Robust)
    robust.scene.measuring.within = True  # in this process, without Ray
    found = Robustness.read(recipe.perform(Told()).parent / ROBUSTNESS_FILE)
    assert {each.setting for each in found.outcomes["forgot"]} > {"half fp16", "merge_back 0.5"}
    assert "attack forgot: merge-0.5" in "\n".join(Attacks(recipe.config).outline())
    assert "attack original: merge-0.5" not in "\n".join(Attacks(recipe.config).outline())
