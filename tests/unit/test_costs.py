"""The cost model: every formula by hand, the FLOPs against those that torch counts, and what `plan` makes of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from obliviate.config import UnlearnRun, load
from obliviate.errors import UserError
from obliviate.methods import GD, ME, Term
from obliviate.models import ModelSize, model_size
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train.batch import collate
from obliviate.train.loop import _Trainer, single_process
from obliviate.train.reference import scored_at
from obliviate_cli.costs import evaluation, training
from obliviate_cli.costs.estimate import stages
from obliviate_cli.costs.evaluation import Measuring
from obliviate_cli.costs.hardware import GPUS, Cluster, Gpu
from obliviate_cli.costs.manifest import capacity, groups_of, quantity, read_groups
from obliviate_cli.costs.stage import CURES, measure, train
from obliviate_cli.costs.table import tables
from obliviate_cli.costs.training import SCORING_BYTES, START_S, Training
from obliviate_cli.costs.verb import Offer, conclusions, plan
from obliviate_cli.costs.work import unlearning
from obliviate_cli.fuse import FuseRun
from obliviate_cli.main import main
from tiny import tiny_model_folder
from training import job

ROOT = Path(__file__).parents[2]
# Body 100, embedding of 10 x 5, two layers.
SIZE = ModelSize(parameters=150, trained=150, layers=2, hidden_size=5, vocabulary=10, tied=True)
WORK = Training(SIZE, steps=7, items=6, micro_items=1, texts_per_item=2, tokens=4, scored=3)
GPU = Gpu(memory_bytes=1e9, flops_per_s=1000.0, memory_bytes_per_s=100.0, link_bytes_per_s=900.0)
CLUSTER = Cluster(GPU, gpus_per_node=2, network_bytes_per_s=300.0, storage_bytes_per_s=10.0, utilization=0.5)
OFFER = Offer("h100", None, 8, 3200, 0.4, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("costs") / "model", hidden_size=64)


class TestTraining:
    def test_flops_of_a_step(self) -> None:
        """Forward of a text: 4 x (2 x 100 + 2 x 4 x 4 x 5) = 1440; backward: 800 + 800 + 2 x 640 = 2880; head: 3 x 100
        forward, four times in all: 1200. 12 texts."""
        assert WORK.forward_flops == 1440
        assert WORK.step_flops == 12 * (1440 + 2880 + 1200)

    def test_checkpointing_runs_forward_once_more(self) -> None:
        assert replace(WORK, checkpointing=True).step_flops - WORK.step_flops == 12 * 1440

    def test_the_reference_runs_forward_once(self) -> None:
        assert replace(WORK, reference_texts=5).flops - WORK.flops == 5 * (1440 + 300)

    def test_adapters_have_small_weight_gradients(self) -> None:
        """90 + 10 in adapters: of the 800 for weights' gradients 4 x 2 x 10 stay, of the head's four products three."""
        lora = replace(WORK, size=replace(SIZE, trained=10))
        assert lora.step_flops == 12 * (1440 + 800 + 80 + 1280 + 900)

    def test_bytes_that_a_worker_sends(self) -> None:
        """Three micro-batches of two workers; each 2 x 250 gathered and 4 x 150 reduced, half of it sent."""
        assert WORK.micro_batches(2) == 3
        assert WORK.moved_bytes(2) == 3 * 1100 / 2

    def test_memory_of_a_gpu(self) -> None:
        """16 x 150 / 2 of state; embedding and two layers in 2 bytes: 300; eight tokens: 8 x 34 x 5 x 2 layers."""
        assert WORK.memory_bytes(2) == 1200 + 300 + 2720 + SCORING_BYTES
        assert WORK.memory_bytes(1) == 2400 + 300 + 2720 + SCORING_BYTES  # everything gathered: 150 x 2

    def test_checkpointing_keeps_two_bytes_a_layer_and_one_whole_layer(self) -> None:
        kept = replace(WORK, checkpointing=True).memory_bytes(2) - 1200 - 300 - SCORING_BYTES
        assert kept == pytest.approx(8 * 5 * (2 * 2 + 34))

    def test_every_worker_of_a_node_loads_the_whole_model(self) -> None:
        assert WORK.host_bytes(1, CLUSTER) == 600
        assert WORK.host_bytes(4, CLUSTER) == 1200

    def test_seconds_of_a_step(self) -> None:
        """66240 FLOPs over two workers at 500 a second; 1650 bytes over a link of 900; 28 x 150 / 2 bytes at 100."""
        step = training.step(WORK, CLUSTER, 2)
        assert step.compute_s == pytest.approx(66240 / 2 / 500)
        assert step.communication_s == pytest.approx(1650 / 900)
        assert step.launch_s == pytest.approx(3 * 2 * 1e-3)
        assert step.optimizer_s == pytest.approx(21.0)
        assert step.s == pytest.approx(66.24 + 21.0)
        assert step.limit == "compute"

    def test_between_nodes_the_network_may_be_the_slower_link(self) -> None:
        assert training.step(WORK, CLUSTER, 3).communication_s == pytest.approx(2 * 1100 * 2 / 3 / 300)

    def test_seconds_of_a_run(self) -> None:
        found = training.times(replace(WORK, reference_texts=5), CLUSTER, 2)
        assert found["start"] == START_S
        assert found["load"] == pytest.approx(300 / 10 + 600 / 5e9)
        assert found["reference"] == pytest.approx(5 * 1740 / 2 / 500)
        assert found["steps"] == pytest.approx(7 * 87.24)
        assert found["export"] == pytest.approx(60.0)

    @given(workers=st.integers(1, 64), items=st.integers(1, 64), micro=st.integers(1, 8))
    def test_what_workers_change(self, workers: int, items: int, micro: int) -> None:
        """A lone worker sends nothing; more of them never take more memory each, nor more seconds of computing."""
        work = replace(WORK, items=items, micro_items=micro, size=replace(SIZE, layers=20))
        assert work.moved_bytes(1) == 0
        assert work.memory_bytes(workers + 1) <= work.memory_bytes(workers)
        assert training.step(work, CLUSTER, workers + 1).compute_s < training.step(work, CLUSTER, workers).compute_s


class TestCountedByTorch:
    """FLOPs that torch counts in one step of the real loop. Vectors (norms) are no products: they are left out of N."""

    @staticmethod
    def counted(folder: Path, model: Path, terms: tuple[Term, ...], **changes: Any) -> tuple[int, Training]:
        asked = job(model, folder, terms, batch_size=4, micro_batch_size=4, **changes.pop("optim", {}))
        asked = replace(asked, model=asked.model.model_copy(update=changes))
        with single_process():
            trainer = _Trainer(asked, torch.device("cpu"))
            (items,) = trainer._every_micro_batch(0)
            batch = collate(trainer.texts, items, trainer.needs, 64)
            scored = sum(int(batch.wanted_BT(e, scored_at(stats)).sum()) for e, stats in trainer.needs.items())
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                trainer.step(0)
            vectors = sum(p.numel() for p in trainer.model.parameters() if p.ndim < 2)
        size = model_size(asked.model)
        full = size.trained == size.parameters
        size = replace(
            size, parameters=size.parameters - vectors, trained=size.trained - vectors if full else size.trained
        )
        texts, tokens = batch.input_ids_BT.shape
        return counter.get_total_flops(), Training(
            size, 1, 4, 4, texts // 4, tokens, scored / texts, checkpointing=asked.optim.activation_checkpointing
        )

    def test_full_training(self, model: Path, tmp_path: Path) -> None:
        counted, work = self.counted(tmp_path, model, (ME(), GD()))
        assert work.step_flops == counted

    def test_adapters(self, model: Path, tmp_path: Path) -> None:
        """The first layer's inputs need no gradient, which the formula leaves out: less, and not much less."""
        counted, work = self.counted(tmp_path, model, (ME(), GD()), lora=LoraSpec(rank=2, dropout=0))
        assert 0.85 * work.step_flops < counted < work.step_flops

    def test_checkpointing(self, model: Path, tmp_path: Path) -> None:
        """torch stops before a layer's last product, whose result nobody needs: less than the whole forward pass."""
        counted, work = self.counted(tmp_path, model, (ME(), GD()), optim={"activation_checkpointing": True})
        without = replace(work, checkpointing=False).step_flops
        assert without + 0.7 * (work.step_flops - without) < counted < work.step_flops


class Collectives(TorchDispatchMode):
    """Bytes that collectives gather and reduce while it is active: whole tensors, not a worker's shard."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.c10d._allgather_base_.default, torch.ops.c10d._reduce_scatter_base_.default):
            self.bytes += max(each.nbytes for each in args if isinstance(each, Tensor))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("workers", [2, 4])
def test_bytes_that_the_real_loop_sends(workers: int, model: Path, tmp_path: Path) -> None:
    """One worker of a group whose others are made up: what it gathers and reduces, of which (W - 1)/W is sent.

    The final norm is gathered once, and counted with the body, twice: 64 numbers.
    """
    asked = job(model, tmp_path, (ME(), GD()), batch_size=4, micro_batch_size=1)
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=workers)
    try:
        trainer = _Trainer(asked, torch.device("cpu"))
        batch = collate(trainer.texts, trainer._every_micro_batch(0)[0], trainer.needs, 64)
        with Collectives() as seen:
            ((phase,),) = (update.phases for update in trainer.updates)
            scores = trainer._scores(phase, batch)
            torch.stack([term.loss(scores).sum for term in trainer.terms]).sum().backward()
    finally:
        distributed.destroy_process_group()
    work = Training(model_size(asked.model), 1, workers, 1, 2, 10, 9, compute_bytes=4)
    assert work.micro_batches(workers) == 1
    assert seen.bytes * (workers - 1) / workers == pytest.approx(work.moved_bytes(workers), rel=1e-3)


class TestEvaluation:
    WORK = Measuring(SIZE, 6, 2, 4, 5, 3, replicas=2)

    def test_a_token_is_multiplied_with_body_and_head(self) -> None:
        assert self.WORK.flops == 2 * 150 * (6 * (2 + 4) + 5 * 3)

    def test_seconds(self) -> None:
        """Three questions a replica; reading 300 bytes of weights takes 3 s a token, computing 900 / 500."""
        found = evaluation.times(self.WORK, CLUSTER)
        assert found["generate"] == pytest.approx(4 * 3.0 + 300 * 3 * 2 / 500)
        assert found["score"] == pytest.approx(300 * 3 * 3 / 500)
        assert found["load"] == pytest.approx(30.0)

    def test_many_answers_together_are_limited_by_computing(self) -> None:
        """512 questions on one replica: two rounds of 256, each token 2 x 150 x 256 / 500 s."""
        found = evaluation.times(replace(self.WORK, questions=512, question_tokens=0, replicas=1), CLUSTER)
        assert found["generate"] == pytest.approx(2 * 4 * 300 * 256 / 500)

    def test_nothing_to_generate(self) -> None:
        assert evaluation.times(replace(self.WORK, questions=0), CLUSTER)["generate"] == 0


class TestStage:
    def test_repeats_in_rounds(self) -> None:
        """Five trials of two GPUs, two at a time: three rounds; GPU hours of five."""
        stage = train("t", WORK, CLUSTER, 2, repeats=5, at_a_time=2)
        each = sum(stage.seconds.values())
        assert stage.s == pytest.approx(3 * each)
        assert stage.gpu_hours == pytest.approx(5 * 2 * each / 3600)

    def test_a_share_of_a_gpu_is_that_much_slower(self) -> None:
        """Four trials on one GPU compute as long as one after another, and take as many GPU hours."""
        alone = train("t", replace(WORK, items=1), CLUSTER, 1)
        shared = train("t", replace(WORK, items=1), CLUSTER, 1, repeats=4, at_a_time=4, share=0.25)
        assert shared.gpus == 0.25
        assert shared.seconds["steps"] == pytest.approx(4 * alone.seconds["steps"], rel=1e-3)
        assert measure("m", TestEvaluation.WORK, CLUSTER, share=0.5).gpus == 1

    def test_what_all_nodes_share_is_shared(self) -> None:
        """Eight runs of one GPU on four nodes: each node reads 5 of 20, two writers of a node have 2.5 each."""
        cluster = replace(CLUSTER, shared_bytes_per_s=20.0)
        found = training.times(WORK, cluster, 1, at_a_time=8)
        assert found["load"] == pytest.approx(300 / 5 + 600 / 5e9)
        assert found["export"] == pytest.approx(600 / 2.5)

    @pytest.mark.parametrize(
        ("changes", "limit"),
        [
            ({}, "compute"),
            ({"storage_bytes_per_s": 0.1}, "export"),
            ({"host_memory_bytes": 1000.0}, "host memory"),
            ({"gpu": replace(GPU, memory_bytes=1e8)}, "GPU memory"),
            ({"gpu": replace(GPU, link_bytes_per_s=1e-3)}, "communication"),
            ({"gpu": replace(GPU, memory_bytes_per_s=1e-3)}, "optimizer"),
            ({"gpu": replace(GPU, flops_per_s=1e12, memory_bytes_per_s=1e12), "storage_bytes_per_s": 1e9}, "start"),
        ],
    )
    def test_the_limit_is_what_takes_longest_or_does_not_fit(self, changes: dict[str, Any], limit: str) -> None:
        stage = train("t", WORK, replace(CLUSTER, **changes), 2)
        assert stage.limit == limit
        assert limit in CURES
        assert stage.fits == (limit not in ("GPU memory", "host memory"))

    def test_every_part_of_the_time_has_a_cure(self) -> None:
        parts = {*training.times(WORK, CLUSTER, 2), *evaluation.times(TestEvaluation.WORK, CLUSTER)} - {"steps"}
        assert parts < set(CURES)

    def test_what_does_not_fit_is_said_with_its_cure(self) -> None:
        small = replace(CLUSTER, gpu=replace(GPU, memory_bytes=1e8))
        lines = conclusions(
            [train("unlearn", WORK, small, 2), measure("evaluate", TestEvaluation.WORK, CLUSTER)], small, 4
        )
        assert lines[0].startswith("unlearn: does not fit: 0 GB on a GPU of 0 GB; more workers")
        assert "first bottleneck: " in lines[2]
        assert lines[3].startswith("2 of 4 GPUs are never used")


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
    work = unlearning(config, config.data.load())
    assert (work.steps, work.items, work.texts_per_item, work.reference_texts) == (4, 3, 2, 3)
    assert 0 < work.scored < work.tokens <= 64
    padded = load(UnlearnRun, unlearn_config(tmp_path, model, method={"type": "me", "positions": "padded"}))
    assert unlearning(padded, padded.data.load()).tokens == 64


SHARP: dict[str, Any] = {"sharpness": {"rho": 0.01}}


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({}, (2, 1, 1, 16)),
        ({"updates": "alternating"}, (2, 2, 2, 16)),
        ({"updates": "dual"}, (2, 2, 2, 24)),
        (SHARP, (3, 3, 1, 16)),
        ({"method": "npo+wasserstein", "updates": "alternating"}, (1, 1, 2, 20)),
        ({"method": "npo+gd+world+wasserstein"}, (3, 1, 1, 20)),
    ],
)
def test_updates_of_their_own(values: dict[str, Any], counts: tuple[int, ...], model: Path, tmp_path: Path) -> None:
    """Texts, rounds, updates, bytes of state. NPO and GD alternate in two rounds of one text each; DualOptim keeps 8
    more bytes; a sharpness-aware update runs over its text twice; the distance to the initial weights has no text, and
    keeps 4 more bytes."""
    world = {"world": str(world_file(tmp_path))} if "world" in str(values.get("method")) else {}
    config = load(UnlearnRun, unlearn_config(tmp_path, model, **values, **world))
    work = unlearning(config, config.data.load())
    assert (work.texts_per_item, work.rounds, work.updates, work.state_bytes) == counts


def test_what_is_run_over_once(model: Path, tmp_path: Path) -> None:
    """The reference over 3 forget rows for NPO, and for KL over all 9 retain rows, which 12 items meet; 2 of them to
    project with."""
    config = load(UnlearnRun, unlearn_config(tmp_path, model, method="npo+kl"))
    assert unlearning(config, config.data.load()).reference_texts == 3 + 9
    values = {"method": "npo+gd", "updates": "dual", "projection": {"texts": 2}}
    config = load(UnlearnRun, unlearn_config(tmp_path, model, **values))
    assert unlearning(config, config.data.load()).reference_texts == 3 + 2


def test_longer_texts_of_world_and_marked_rows(model: Path, tmp_path: Path) -> None:
    """The mean over passes: with longer instructions, and with marks before the questions, more than without."""

    def tokens(**values: Any) -> float:
        path = unlearn_config(tmp_path, model, **values)
        config = load(UnlearnRun, path, ["model.max_length=1024"])  # nothing is cut off
        return unlearning(config, config.data.load()).tokens

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
    found = stages(load(UnlearnRun, filtered), CLUSTER)
    assert [each.title for each in found] == [f"filter: score the forget set with {model}", "unlearn NPO+GD"]
    values = yaml.safe_load(filtered.read_text())
    del values["forget_filter"]
    requests = {"requests": {name: values.pop("data") if name == "a" else {"type": "fictitious"} for name in "ab"}}
    (tmp_path / "fuse.yaml").write_text(yaml.safe_dump({**values, **requests, "concurrency": 2}))
    plan(tmp_path / "fuse.yaml", [], OFFER)
    assert "2 (2 at once)" in capsys.readouterr().out
    with pytest.raises(UserError, match="plan: no adapter is trained"):
        stages(load(FuseRun, tmp_path / "fuse.yaml", ["requests={}", f"adapters.a={tmp_path}"]), CLUSTER)


def test_rounds_and_updates_cost_time_each() -> None:
    """Twice gathered and sent, launched twice, and half of the texts in memory at a time."""
    twice = replace(WORK, rounds=2, updates=2)
    one, two = (training.step(each, CLUSTER, 2) for each in (WORK, twice))
    assert two.communication_s == 2 * one.communication_s
    assert (two.launch_s, two.optimizer_s) == (2 * one.launch_s, 2 * one.optimizer_s)
    assert two.compute_s == one.compute_s
    halves = replace(WORK, texts_per_item=1)
    assert twice.memory_bytes(2) == halves.memory_bytes(2)
    assert replace(WORK, state_bytes=24).memory_bytes(1) - WORK.memory_bytes(1) == 8 * SIZE.trained


@pytest.mark.parametrize(
    ("verb", "values", "titles"),
    [
        ("unlearn", {}, ["unlearn NPO+GD"]),
        ("finetune", {"method": None, "train_on": "retain"}, ["fine-tune on retain"]),
        (
            "compare",
            {"method": None, "methods": ["ga", "me+gd"], "finetune": {}},
            ["fine-tune on all", "fine-tune on retain", "unlearn GA", "unlearn ME+GD", "evaluate each model"],
        ),
        (
            "sweep",
            {"method": None, "space": {"methods": ["ga", "me+gd"]}, "seeds": [0, 1], "concurrency": 2},
            ["unlearn GA", "unlearn ME+GD", "evaluate each trial's model"],
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
    assert "evaluate one" in out
    assert "evaluate two" in out


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

    def test_capacity_is_what_all_pods_add_up_to(self) -> None:
        groups = groups_of(CLUSTER_YAML, "c")
        assert capacity(groups) == {"CPU": 3 * 0.5 + 2 * 8, "GPU": 8}
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

    def test_the_groups_are_the_cluster(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        plan(unlearn_config(tmp_path, model), [], replace(OFFER, manifest=self.write(tmp_path, CLUSTER_YAML)))
        assert "h100 x 8, 4 to a node" in capsys.readouterr().out


def test_bad_options(model: Path, tmp_path: Path) -> None:
    path = unlearn_config(tmp_path, model, cluster={"workers": 2, "gpus_per_worker": 1})
    with pytest.raises(UserError, match=r"--gpu b100: is not known; known: l4, a100"):
        plan(path, [], replace(OFFER, gpu="b100"))
    with pytest.raises(UserError, match=r"cluster\.workers=2: asked for 2 x 1 GPUs, the cluster has 1"):
        plan(path, [], replace(OFFER, gpus=1))


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
    monkeypatch.setattr("sys.argv", ["obliviate", "plan", path, "--gpu", "abacus"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --gpu abacus: is not known; known: l4, a100, h100, h200\n"


def test_a_config_that_is_not_estimated(tmp_path: Path) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text("entity: {name: Ada}\nwriter: {type: endpoint, base_url: 'http://localhost', model: m}\n")
    with pytest.raises(UserError, match="only training and evaluation are estimated"):
        plan(path, [], OFFER)


def test_the_documents_tables_are_those_of_the_model() -> None:
    assert tables() in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_published_figures_of_the_gpus() -> None:
    assert GPUS["h100"].flops_per_s == GPUS["h200"].flops_per_s == 989e12


def test_sizes_come_from_the_config_alone(model: Path) -> None:
    size = model_size(ModelSpec(source=str(model)))
    assert size.tied
    assert size.body == size.parameters - size.vocabulary * 64
