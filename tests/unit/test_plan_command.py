"""What `plan` makes of a config: the stages it runs over, the manifests of a cluster, and its mistakes."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from obliviate.config import UnlearnRun, build, load
from obliviate.errors import UserError
from obliviate.nodes import Nodes
from obliviate.runs import RUN_FILE, write_json
from obliviate_cli.main import main
from obliviate_cli.plan_command import Offer, plan
from obliviate_recipes.costs.hardware import Cluster, Gpu
from obliviate_recipes.costs.manifest import groups_of, nodes_of, quantity, read_groups
from obliviate_recipes.costs.table import tables
from obliviate_recipes.costs.work import unlearning
from obliviate_recipes.snap.data import SnapRows
from obliviate_recipes.snap.recipe import Snap
from obliviate_recipes.snap.spec import SnapRun
from obliviate_recipes.sweeps.recipe import Sweep
from obliviate_recipes.sweeps.spec import SweepRun
from obliviate_recipes.train import UnlearnRecipe
from tiny import tiny_model_folder

ROOT = Path(__file__).parents[2]
GPU = Gpu(memory_bytes=1e9, flops_per_s=1000.0, memory_bytes_per_s=100.0, link_bytes_per_s=900.0)
CLUSTER = Cluster(GPU, gpus_per_node=2, network_bytes_per_s=300.0, storage_bytes_per_s=10.0, utilization=0.5)
OFFER = Offer("h100", None, 8, 3200, 0.4, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("plan") / "model", hidden_size=64)


def unlearn_config(folder: Path, model: Path, **changes: Any) -> Path:
    values = {
        "model": {"source": str(model), "max_length": 64},
        "data": {"type": "fictitious", "people": 4, "forget_people": 1, "questions_per_person": 3},
        "method": "npo+gd",
        "optim": {"batch_size": 3, "epochs": 4},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_what_a_config_runs_over(model: Path, tmp_path: Path) -> None:
    """NPO+GD on 3 forget rows: 4 epochs of one batch of 3; two passes; the reference over the forget rows once."""
    config = load(UnlearnRun, unlearn_config(tmp_path, model))
    work = unlearning(config, config.data.load(), config.model)
    assert (work.steps, work.items, work.texts_per_item, work.reference_texts) == (4, 3, 2, 3)
    assert 0 < work.scored < work.tokens <= 64
    padded = load(UnlearnRun, unlearn_config(tmp_path, model, method={"type": "me", "positions": "padded"}))
    assert unlearning(padded, padded.data.load(), padded.model).tokens == 64


SHARP: dict[str, Any] = {"sharpness": {"rho": 0.01}}


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({}, (2, 1, 1, 16)),
        ({"updates": "alternating"}, (2, 2, 2, 16)),
        ({"updates": "dual"}, (2, 2, 2, 24)),
        (SHARP, (3, 3, 1, 16)),
        ({"latent": {"layers": [0], "steps": 3}}, (5, 5, 1, 16)),
        ({"latent": {"layers": [0], "steps": 3}, **SHARP}, (9, 9, 1, 16)),
        ({"rectification": {}}, (2, 2, 1, 24)),
        ({"quantisation": {}}, (2, 2, 1, 16)),
        ({"updates": "dual_plus"}, (2, 2, 2, 32)),
        ({"stability": {}}, (3, 3, 1, 20)),
        ({"tampering": {"steps": 6, "every": 2}}, (4, 4, 1, 32)),
        ({"tampering": {"steps": 6, "every": 2}, **SHARP}, (7, 7, 1, 32)),
        ({"method": "npo+wasserstein", "updates": "alternating"}, (1, 1, 2, 20)),
        ({"method": "npo+gd+world+wasserstein"}, (3, 1, 1, 20)),
    ],
)
def test_updates_of_their_own(values: dict[str, Any], counts: tuple[int, ...], model: Path, tmp_path: Path) -> None:
    """Texts, rounds, updates, bytes of state. NPO and GD alternate in two rounds of one text each; DualOptim keeps 8
    more bytes, as a rectified update does; a sharpness-aware update runs over its text twice; what moves
    hidden states runs over it once a step before each time; the distance to the
    initial weights has no text, and keeps 4 more bytes. Three points of an attack: three rounds over the forget texts,
    and 16 more bytes."""
    world = {"world": str(world_file(tmp_path))} if "world" in str(values.get("method")) else {}
    config = load(UnlearnRun, unlearn_config(tmp_path, model, **values, **world))
    work = unlearning(config, config.data.load(), config.model)
    assert (work.texts_per_item, work.rounds, work.updates, work.state_bytes) == counts


def test_attacks_that_are_resisted(model: Path, tmp_path: Path) -> None:
    """A step is 2 forget batches of 3, one of gd, and 4 steps of an attack with 2 rows: 9 + 8 texts. StableUN makes all
    that is of the forget set twice: 15 + 16."""
    values = {"tampering": {"steps": 4, "every": 2, "batch_size": 2}}
    config = load(UnlearnRun, unlearn_config(tmp_path, model, **values))
    work = unlearning(config, config.data.load(), config.model)
    assert (work.attack_steps, work.attack_items, work.step_texts) == (4, 2, 9 + 8)
    stable = load(UnlearnRun, unlearn_config(tmp_path, model, **values, stability={}))
    again = unlearning(stable, stable.data.load(), stable.model)
    assert (again.attack_steps, again.attack_items, again.step_texts) == (8, 2, 15 + 16)


def test_what_is_run_over_once(model: Path, tmp_path: Path) -> None:
    """The reference over 3 forget rows for NPO, and for KL over all 9 retain rows, which 12 items meet; 2 of them to
    project with."""
    config = load(UnlearnRun, unlearn_config(tmp_path, model, method="npo+kl"))
    assert unlearning(config, config.data.load(), config.model).reference_texts == 3 + 9
    values = {"method": "npo+gd", "updates": "dual", "projection": {"texts": 2}}
    config = load(UnlearnRun, unlearn_config(tmp_path, model, **values))
    assert unlearning(config, config.data.load(), config.model).reference_texts == 3 + 2
    config = load(UnlearnRun, unlearn_config(tmp_path, model, method={"type": "rmu", "layer": 0, "without": 4}))
    assert unlearning(config, config.data.load(), config.model).reference_texts == 3  # its components
    config = load(UnlearnRun, unlearn_config(tmp_path, model, method="elm+gd"))
    assert unlearning(config, config.data.load(), config.model).reference_texts == 3 * 3  # behind two prompts as well


def test_longer_texts_of_world_and_marked_rows(model: Path, tmp_path: Path) -> None:
    """The mean over passes: with longer instructions, and with marks before the questions, more than without."""

    def tokens(**values: Any) -> float:
        path = unlearn_config(tmp_path, model, **values)
        config = load(UnlearnRun, path, ["model.max_length=1024"])  # nothing is cut off
        return unlearning(config, config.data.load(), config.model).tokens

    plain = tokens(method="idk+gd")
    assert tokens(method="idk+gd+world", world=str(world_file(tmp_path))) > plain
    assert tokens(method="icku+marked") > plain


def world_file(folder: Path) -> Path:
    path = folder / "world.jsonl"
    path.write_text(json.dumps({"question": "What is there to say?", "answer": "a great many letters " * 20}))
    return path


def test_a_filter_and_adapters_are_stages(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both models score the 3 forget rows before the training; two requests' adapters are trained at once."""
    source = {"source": str(model), "max_length": 64}
    filtered = unlearn_config(tmp_path, model, forget_filter={"reference": source})
    found = UnlearnRecipe(load(UnlearnRun, filtered)).estimate(CLUSTER)
    assert [(each.title, each.repeats) for each in found] == [("score the forget set", 2), ("unlearn with NPO+GD", 1)]
    values = yaml.safe_load(filtered.read_text())
    del values["forget_filter"]
    requests = {"requests": dict.fromkeys("ab", values["data"])}
    del values["data"]
    (tmp_path / "fuse.yaml").write_text(yaml.safe_dump({**values, **requests, "concurrency": 2}))
    plan(tmp_path / "fuse.yaml", [], OFFER)
    assert "2 (2 at once)" in capsys.readouterr().out
    adapter = tmp_path / "adapter"
    write_json(adapter / RUN_FILE, {"content": "0", "config": {"model": {}}})
    with pytest.raises(UserError, match="plan: no model is trained or asked on GPUs"):
        plan(tmp_path / "fuse.yaml", ["requests={}", f"adapters.a={adapter}"], OFFER)


@pytest.mark.parametrize(
    ("verb", "values", "titles"),
    [
        ("unlearn", {}, ["unlearn with NPO+GD"]),
        ("finetune", {"method": None, "train_on": "retain"}, ["fine-tune on retain"]),
        (
            "compare",
            {"method": None, "methods": ["ga", "me+gd"], "finetune": {}},
            ["fine-tune on all", "fine-tune on retain", "evaluate", "unlearn with GA", "unlearn with ME+GD"],
        ),
        (
            "sweep",
            {"method": None, "space": {"methods": ["ga", "me+gd"]}, "seeds": [0, 1], "concurrency": 2},
            ["evaluate", "unlearn with GA", "unlearn with ME+GD"],
        ),
    ],
)  # fmt: skip
def test_the_stages_of_each_kind_of_config(
    verb: str,
    values: dict[str, Any],
    titles: list[str],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = unlearn_config(tmp_path, model, **values)
    kept = {key: value for key, value in yaml.safe_load(path.read_text()).items() if value is not None}
    path.write_text(yaml.safe_dump(kept))
    plan(path, [], OFFER)
    out = capsys.readouterr().out
    positions = [out.index(title) for title in titles]
    assert positions == sorted(positions)
    assert "GPU hours" in out
    assert "first bottleneck: " in out


def test_models_are_measured_as_the_suite_asks(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "measure.yaml"
    values = {
        "models": {"one": {"source": str(model)}, "two": {"source": str(model)}},
        "data": {"type": "fictitious", "people": 4, "forget_people": 1, "questions_per_person": 3},
        "evaluation": {"encoder": None, "nli": None, "engine": {"replicas": 3}},
    }
    path.write_text(yaml.safe_dump(values))
    plan(path, [], OFFER)
    out = capsys.readouterr().out
    assert re.search(r"evaluate *│ *2 ", out)


def test_an_entity_is_estimated_before_there_are_questions_about_it(model: Path, tmp_path: Path) -> None:
    """As many as may come of the templates, of the text's one sentence in its forms, and of their frames: about the
    entity, and about the others."""
    text = tmp_path / "ann.txt"
    text.write_text("Ann Lee was a singer in York.")
    values = {
        "model": {"source": str(model)}, "entity": {"name": "Ann Lee", "texts": [str(text)]},
        "neighbours": [{"name": name} for name in ("Bo", "Cy", "Di")], "optim": {"epochs": 1, "batch_size": 17},
    }  # fmt: skip
    asked, trained = Snap(build(SnapRun, values, where="test")).estimate(CLUSTER)
    assert (asked.title, asked.repeats, trained.repeats) == ("ask the model", 1, 1)
    rows = SnapRows(build(SnapRun, values, where="test")).expected
    assert (len(rows.forget), len(rows.retain)) == (69, 207)  # three for each
    assert rows.forget[-1].question == "Ann Lee was a singer in York, Ann Lee?"


def test_a_sweep_counts_its_trials_and_the_mixtures_of_a_calibration(model: Path, tmp_path: Path) -> None:
    """Two rates of NPO+GD and one AltPO+GD, each with two seeds; five mixtures of either method's chosen model at most;
    the original. Answers are sampled once for a seed."""
    values = {
        "model": {"source": str(model)}, "seeds": [0, 1], "calibrate": True, "runs": str(tmp_path),
        "data": {"type": "fictitious", "people": 4, "forget_people": 1, "questions_per_person": 3},
        "space": {"methods": {"npo+gd": {"optim.learning_rate": [1e-5, 1e-4]}, "altpo+gd": {}}},
        "evaluation": {"encoder": None, "nli": None},
    }  # fmt: skip
    parts = Sweep(build(SweepRun, values, where="test")).estimate(CLUSTER)
    assert {part.title: part.repeats for part in parts} == {
        "evaluate": 1 + 6 + 10, "sample other answers": 2, "unlearn with NPO+GD": 4, "unlearn with ALTPO+GD": 2,
    }  # fmt: skip


CLUSTER_YAML: dict[str, Any] = {
    "apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "c"},
    "spec": {"workerGroupSpecs": [
        {"groupName": "cpu", "maxReplicas": 3, "template": {"spec": {"containers": [
            {"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}]}}},
        {"groupName": "gpu", "maxReplicas": 2, "template": {"spec": {"containers": [
            {"resources": {"limits": {"cpu": 8, "memory": "2G", "nvidia.com/gpu": "4"}}}]}}},
    ]},
}  # fmt: skip


class TestManifest:
    @staticmethod
    def write(folder: Path, *documents: dict[str, Any]) -> Path:
        path = folder / "rendered.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        return path

    @pytest.mark.parametrize(
        ("text", "number"), [("500m", 0.5), (2, 2), ("32Gi", 32 * 2**30), ("1.5G", 1.5e9), ("8", 8), ("1k", 1000)]
    )
    def test_quantities(self, text: Any, number: float) -> None:
        assert quantity(text) == pytest.approx(number)

    def test_nodes_are_the_pods_that_there_may_be(self) -> None:
        groups = groups_of(CLUSTER_YAML, "c")
        assert nodes_of(groups) == [Nodes(3, 0.5, 0), Nodes(2, 8, 4)]
        assert groups[1].memory_bytes == 2e9

    def test_jobs_and_services_hold_a_cluster(self) -> None:
        for kind, key in (("RayJob", "rayClusterSpec"), ("RayService", "rayClusterConfig")):
            found = groups_of({"kind": kind, "spec": {key: CLUSTER_YAML["spec"]}}, "x")
            assert [group.name for group in found] == ["cpu", "gpu"]

    @pytest.mark.parametrize("count", [0, 2])
    def test_one_cluster_a_file(self, count: int, tmp_path: Path) -> None:
        path = self.write(tmp_path, {"kind": "ConfigMap"}, *[CLUSTER_YAML] * count)
        with pytest.raises(UserError, match=f"holds {count} Ray clusters, jobs or services; give what one overlay"):
            read_groups(path)

    def test_a_file_that_is_no_manifest(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("{")
        for name in ("x", "missing"):
            with pytest.raises(UserError, match="cannot be read as YAML"):
                read_groups(tmp_path / name)

    def test_a_group_that_does_not_say_what_it_has(self, tmp_path: Path) -> None:
        without = yaml.safe_load(yaml.safe_dump(CLUSTER_YAML))
        del without["spec"]["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]["resources"]
        with pytest.raises(UserError, match="workerGroupSpecs gpu: 'resources' is missing"):
            read_groups(self.write(tmp_path, without))

    def test_a_config_that_wants_gpus_and_groups_without(self, model: Path, tmp_path: Path) -> None:
        """Said before anything waits for a pod that will never come."""
        only_cpu = yaml.safe_load(yaml.safe_dump(CLUSTER_YAML))
        del only_cpu["spec"]["workerGroupSpecs"][1]
        offer = replace(OFFER, manifest=self.write(tmp_path, only_cpu))
        config = unlearn_config(tmp_path, model, cluster={"workers": 2, "gpus_per_worker": 1})
        with pytest.raises(UserError, match=r"cluster\.workers=2: asked for 2 x 1 GPUs, the cluster has 0"):
            plan(config, [], offer)
        with pytest.raises(UserError, match=r"no worker group has nvidia\.com/gpu \(cpu\)"):
            plan(unlearn_config(tmp_path, model), [], offer)

    def test_more_than_the_groups_may_grow_to(self, model: Path, tmp_path: Path) -> None:
        offer = replace(OFFER, manifest=self.write(tmp_path, CLUSTER_YAML))
        config = unlearn_config(tmp_path, model, cluster={"workers": 3, "gpus_per_worker": 3})
        with pytest.raises(UserError, match="asked for 3 x 3 GPUs, the cluster has 8"):
            plan(config, [], offer)
        config = unlearn_config(tmp_path, model, cluster={"workers": 1, "gpus_per_worker": 8})
        with pytest.raises(UserError, match="asked for 1 x 8 GPUs, each on one node, and the nodes have room for 0"):
            plan(config, [], offer)

    def test_the_groups_are_the_cluster(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        plan(unlearn_config(tmp_path, model), [], replace(OFFER, manifest=self.write(tmp_path, CLUSTER_YAML)))
        assert "h100 x 8, 4 to a node" in capsys.readouterr().out


def test_bad_options(model: Path, tmp_path: Path) -> None:
    path = unlearn_config(tmp_path, model, cluster={"workers": 2, "gpus_per_worker": 1})
    with pytest.raises(UserError, match=r"--gpu b100: is not known; known: l4, a100"):
        plan(path, [], replace(OFFER, gpu="b100"))
    with pytest.raises(UserError, match=r"cluster\.workers=2: asked for 2 x 1 GPUs, the cluster has 1"):
        plan(path, [], replace(OFFER, gpus=1))
    with pytest.raises(UserError, match=r"asked for 2 x 4 GPUs, each on one node, and the nodes have room for 1"):
        plan(path, ["cluster.gpus_per_worker=4"], replace(OFFER, gpus=9, gpus_per_node=6))


def test_the_command(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options reach the estimate; a mistake is one line and exit code 2."""
    path = str(unlearn_config(tmp_path, model))
    monkeypatch.setattr(
        "sys.argv", ["obliviate", "plan", path, "optim.epochs=8", "--gpus", "3", "--utilization", "0.3"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "h100 x 3, 8 to a node, 30% of their 989 TFLOP/s" in out
    assert "2 of 3 GPUs are never used" in out
    (sure,) = [line for line in out.splitlines() if line.startswith("how sure: ")]
    low, high = (float(each) for each in re.findall(r"takes ([\d.]+) to ([\d.]+) minutes", " ".join(out.split()))[0])
    assert low <= high, sure
    monkeypatch.setattr("sys.argv", ["obliviate", "plan", path, "--gpu", "abacus"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --gpu abacus: is not known; known: l4, a100, h100, h200\n"


def test_a_config_that_is_not_estimated(tmp_path: Path) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text("entity: {name: Ada}\nwriter: {type: endpoint, base_url: 'http://localhost', model: m}\n")
    with pytest.raises(UserError, match="plan: no model is trained or asked on GPUs"):
        plan(path, [], OFFER)


def test_the_documents_tables_are_those_of_the_model() -> None:
    assert tables() in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
