"""The cost model: every formula by hand, the FLOPs against those that torch counts, and what `plan` makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from obliviate.methods import GD, ME, Term
from obliviate.models import ModelSize, model_size
from obliviate.schema import LoraSpec, ModelSpec
from obliviate.train.batch import collate
from obliviate.train.loop import _Trainer, single_process
from obliviate.train.reference import scored_at
from obliviate_cli.plan_command import Offer, conclusions
from obliviate_recipes.costs import evaluation, training
from obliviate_recipes.costs.estimate import CURES, Part, measured, trained
from obliviate_recipes.costs.evaluation import InferenceWork
from obliviate_recipes.costs.hardware import GPUS, Cluster, Gpu
from obliviate_recipes.costs.training import SCORING_BYTES, START_S, TrainingWork
from obliviate_recipes.costs.work import Measured, Trained
from tiny import tiny_model_folder
from training import job

ROOT = Path(__file__).parents[2]
# Body 100, embedding of 10 x 5, two layers.
SIZE = ModelSize(parameters=150, trained=150, layers=2, hidden_size=5, vocabulary=10, tied=True)
WORK = TrainingWork(SIZE, steps=7, items=6, micro_items=1, texts_per_item=2, tokens=4, scored=3, stored_bytes=4)
PIECES = 2 * 64 * 2**20  # that each worker reads or writes at a time
GPU = Gpu(memory_bytes=1e9, flops_per_s=1000.0, memory_bytes_per_s=100.0, link_bytes_per_s=900.0)
CLUSTER = Cluster(
    GPU, gpus_per_node=2, network_bytes_per_s=300.0, storage_bytes_per_s=10.0, utilization=0.5,
    collective=1.0, reserved_bytes=0.0, fragmentation=1.0,
)  # fmt: skip
OFFER = Offer("h100", None, 8, 3200, 0.4, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("costs") / "model", hidden_size=64)


class TestTraining:
    def test_flops_of_a_step(self) -> None:
        """Forward of a text: 4 x (2 x 100 + 2 x 4 x 4 x 5) = 1440; backward: 800 + 800 + 2 x 640 = 2880; head: 3 x 100
        forward, three times in all: 900. 12 texts."""
        assert WORK.forward_flops == 1440
        assert WORK.step_flops(1) == 12 * (1440 + 2880 + 900)

    def test_large_logits_are_made_again(self) -> None:
        """2^25 positions of ten logits in 2 bytes, above 2^27: the head's product a fourth time, and nothing kept."""
        large = replace(WORK, scored=2**25)
        assert large.step_flops(1) - 12 * (1440 + 2880) == 12 * 4 * 2**25 * 100
        assert large.memory_bytes(1) == WORK.memory_bytes(1) - 2 * 3 * 10 * 2

    def test_a_micro_batch_is_no_larger_than_a_workers_share(self) -> None:
        """Six items with 63 MB of logits each: two on each of three workers are small enough, six on one are not."""
        work = replace(WORK, scored=1.5 * 2**21)
        assert replace(work, micro_items=6).step_flops(3) == replace(work, micro_items=2).step_flops(3)
        assert replace(work, micro_items=6).step_flops(1) > replace(work, micro_items=2).step_flops(1)

    def test_checkpointing_runs_forward_once_more(self) -> None:
        assert replace(WORK, checkpointing=True).step_flops(1) - WORK.step_flops(1) == 12 * 1440

    def test_the_reference_runs_forward_once(self) -> None:
        assert replace(WORK, reference_texts=5).flops(1) - WORK.flops(1) == 5 * (1440 + 300)

    def test_adapters_have_small_weight_gradients(self) -> None:
        """90 + 10 in adapters: of the 800 for weights' gradients 4 x 2 x 10 stay, of the head's three products two."""
        lora = replace(WORK, size=replace(SIZE, trained=10))
        assert lora.step_flops(1) == 12 * (1440 + 800 + 80 + 1280 + 600)

    def test_a_token_meets_few_experts(self) -> None:
        """60 of 100 are other experts': forward 4 x (2 x 40 + 160) = 960, backward 320 + 320 + 1280. What is gathered,
        and the state, are of all of them."""
        experts = replace(WORK, size=replace(SIZE, idle=60))
        assert experts.forward_flops == 960
        assert experts.step_flops(1) == 12 * (960 + 320 + 320 + 1280 + 900)
        assert (experts.memory_bytes(2), experts.moved_bytes(2)) == (WORK.memory_bytes(2), WORK.moved_bytes(2))

    def test_adapters_in_experts_make_the_whole_gradient_and_a_sum(self) -> None:
        """80 in experts, 20 of which a token meets, and 10 in adapters: 4 x 2 x (10 + 20). The sums: 80 x 2 bytes, or
        of one layer of two, made again for the backward pass."""
        frozen = replace(WORK, size=replace(SIZE, trained=10, idle=60))
        lora = replace(frozen, size=replace(frozen.size, folded=80))
        assert lora.step_flops(1) - frozen.step_flops(1) == 12 * 4 * 2 * 20
        assert lora.memory_bytes(2) - frozen.memory_bytes(2) == 160
        again, without = (replace(each, checkpointing=True) for each in (lora, frozen))
        assert again.memory_bytes(2) - without.memory_bytes(2) == 80

    def test_bytes_that_a_worker_sends(self) -> None:
        """Three micro-batches of two workers; each 2 x 250 gathered and 4 x 150 reduced, half of it sent."""
        assert WORK.micro_batches(2) == 3
        assert WORK.moved_bytes(2) == 3 * 1100 / 2

    def test_memory_of_a_gpu(self) -> None:
        """16 x 150 / 2 of state; embedding and two layers in 2 bytes: 300; eight tokens: 8 x 34 x 5 x 2 layers;
        logits of 2 x 3 positions: 60 x 2. Whole gradients of the embedding and of a layer, 50 each: 2 and 4 bytes."""
        assert WORK.memory_bytes(2) == 1200 + 300 + 600 + 2720 + 120 + SCORING_BYTES
        assert WORK.memory_bytes(1) == 2400 + 300 + 600 + 2720 + 120 + SCORING_BYTES  # everything gathered: 150 x 2
        frozen = replace(WORK, size=replace(SIZE, trained=10))
        assert frozen.memory_bytes(2) == (16 * 10 + 4 * 140) / 2 + 300 + 2720 + 120 + SCORING_BYTES

    def test_checkpointing_keeps_two_bytes_a_layer_and_one_whole_layer(self) -> None:
        kept = replace(WORK, checkpointing=True).memory_bytes(2) - 1200 - 300 - 600 - 120 - SCORING_BYTES
        assert kept == pytest.approx(8 * 5 * (2 * 2 + 34))

    def test_a_node_holds_pieces_and_a_layer_or_the_whole_model_while_it_is_read(self) -> None:
        """Two of four workers are on a node. A layer has 50 weights, the model 150, in float32."""
        assert WORK.host_bytes(1, CLUSTER) == PIECES + 200
        assert WORK.host_bytes(4, CLUSTER) == 2 * PIECES + 200
        assert replace(WORK, in_parts=False).host_bytes(4, CLUSTER) == 2 * PIECES + 600

    def test_seconds_of_a_step(self) -> None:
        """62640 FLOPs over two workers at 500 a second; 1650 bytes over a link of 900; 28 x 150 / 2 bytes at 100."""
        step = training.step(WORK, CLUSTER, 2)
        assert step.compute_s == pytest.approx(62640 / 2 / 500)
        assert step.communication_s == pytest.approx(1650 / 900)
        assert step.launch_s == pytest.approx(3 * 2 * 1e-3)
        assert step.optimizer_s == pytest.approx(21.0)
        assert step.s == pytest.approx(62.64 + 21.0)
        assert step.limit == "compute"

    def test_between_nodes_the_network_may_be_the_slower_link(self) -> None:
        assert training.step(WORK, CLUSTER, 3).communication_s == pytest.approx(2 * 1100 * 2 / 3 / 300)

    def test_collectives_reach_less_than_the_link(self) -> None:
        real = replace(CLUSTER, collective=0.5)
        assert training.step(WORK, real, 2).communication_s == 2 * training.step(WORK, CLUSTER, 2).communication_s

    def test_a_gpu_has_room_for_less_than_its_memory(self) -> None:
        """100 bytes reserved, and a tenth more held than is used."""
        tight = replace(CLUSTER, gpu=replace(GPU, memory_bytes=1200.0), reserved_bytes=100.0, fragmentation=1.1)
        assert tight.usable_bytes == pytest.approx(1000.0)

    def test_rates_that_are_all_higher_take_less_time(self) -> None:
        """But for the start, and for what Python launches."""
        twice = CLUSTER.faster(2.0)
        one, two = (training.times(WORK, each, 2) for each in (CLUSTER, twice))
        assert two["export"] == one["export"] / 2
        assert two["steps"] == pytest.approx(one["steps"] / 2)
        assert two["start"] == one["start"]
        assert twice.gpu.memory_bytes == GPU.memory_bytes

    def test_seconds_of_a_run(self) -> None:
        found = training.times(replace(WORK, reference_texts=5), CLUSTER, 2)
        assert found["start"] == START_S
        assert found["load"] == pytest.approx(300 / 10 + 600 / 5e9)
        assert found["reference"] == pytest.approx(5 * 1740 / 2 / 500)
        assert found["steps"] == pytest.approx(7 * 83.64)
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
    def counted(folder: Path, model: Path, terms: tuple[Term, ...], **changes: Any) -> tuple[int, TrainingWork]:
        asked = job(model, folder, terms, batch_size=4, micro_batch_size=4, **changes.pop("optim", {}))
        asked = replace(asked, model=asked.model.model_copy(update=changes))
        with single_process():
            trainer = _Trainer(asked, torch.device("cpu"))
            trainer.model.packs = False  # the formula is of texts of one length, as padded ones are
            (items,) = trainer.gradients.micro_batches(trainer.items(0))
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
        return counter.get_total_flops(), TrainingWork(
            size, 1, 4, 4, texts // 4, tokens, scored / texts, checkpointing=asked.optim.activation_checkpointing
        )

    def test_full_training(self, model: Path, tmp_path: Path) -> None:
        counted, work = self.counted(tmp_path, model, (ME(), GD()))
        assert work.step_flops(1) == counted

    def test_adapters(self, model: Path, tmp_path: Path) -> None:
        """The first layer's inputs need no gradient, which the formula leaves out: less, and not much less."""
        counted, work = self.counted(tmp_path, model, (ME(), GD()), lora=LoraSpec(rank=2, dropout=0))
        assert 0.85 * work.step_flops(1) < counted < work.step_flops(1)

    def test_checkpointing(self, model: Path, tmp_path: Path) -> None:
        """torch stops before a layer's last product, whose result nobody needs: less than the whole forward pass."""
        counted, work = self.counted(tmp_path, model, (ME(), GD()), optim={"activation_checkpointing": True})
        without = replace(work, checkpointing=False).step_flops(1)
        assert without + 0.7 * (work.step_flops(1) - without) < counted < work.step_flops(1)


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
        batch = collate(trainer.texts, trainer.gradients.micro_batches(trainer.items(0))[0], trainer.needs, 64)
        with Collectives() as seen:
            ((phase,),) = (update.phases for update in trainer.updates)
            scores = trainer.gradients.scores(phase, batch)
            torch.stack([term.loss(scores).sum for term in trainer.terms]).sum().backward()
    finally:
        distributed.destroy_process_group()
    work = TrainingWork(model_size(asked.model), 1, workers, 1, 2, 10, 9, compute_bytes=4)
    assert work.micro_batches(workers) == 1
    assert seen.bytes * (workers - 1) / workers == pytest.approx(work.moved_bytes(workers), rel=1e-3)


class TestEvaluation:
    WORK = InferenceWork(SIZE, 6, 2, 4, 5, 3, replicas=2)

    def test_a_token_is_multiplied_with_body_and_head(self) -> None:
        assert self.WORK.flops == 2 * 150 * (6 * (2 + 4) + 5 * 3)

    def test_seconds(self) -> None:
        """Three questions a replica; reading 300 bytes of weights takes 3 s a token, computing 900 / 500."""
        found = evaluation.times(self.WORK, CLUSTER)
        assert found["generate"] == pytest.approx(4 * 3.0 + 300 * 3 * 2 / 500)
        assert found["score"] == pytest.approx(300 * 3 * 3 / 500)
        assert found["load"] == pytest.approx(30.0)

    def test_answers_choose_experts(self) -> None:
        """Of 100 in layers a token meets 40: 2 x 90 FLOPs, and one answer reads 90; three read all: 100 and 50."""
        experts = replace(self.WORK, size=replace(SIZE, idle=60))
        assert experts.flops == 2 * 90 * (6 * (2 + 4) + 5 * 3)
        assert (experts.read(1), experts.read(2), experts.read(3)) == (90, 130, 150)
        found = evaluation.times(experts, CLUSTER)
        assert found["generate"] == pytest.approx(4 * 3.0 + 180 * 3 * 2 / 500)

    def test_many_answers_together_are_limited_by_computing(self) -> None:
        """512 questions on one replica: two rounds of 256, each token 2 x 150 x 256 / 500 s."""
        found = evaluation.times(replace(self.WORK, questions=512, question_tokens=0, replicas=1), CLUSTER)
        assert found["generate"] == pytest.approx(2 * 4 * 300 * 256 / 500)

    def test_nothing_to_generate(self) -> None:
        assert evaluation.times(replace(self.WORK, questions=0), CLUSTER)["generate"] == 0


def train(
    title: str,
    work: TrainingWork,
    cluster: Cluster,
    workers: int,
    repeats: int = 1,
    at_a_time: int = 1,
    share: float = 1.0,
) -> Part:
    return trained(Trained(title, work, workers, share), cluster, repeats, at_a_time)


def measure(title: str, work: InferenceWork, cluster: Cluster, share: float = 1.0) -> Part:
    return measured(Measured(title, work, share), cluster)


class TestPart:
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

    def test_runs_at_a_time_load_on_the_same_nodes(self) -> None:
        """Two GPUs of a node hold two workers, whosever they are, or eight with a quarter each."""
        each = PIECES + 200
        assert train("t", WORK, CLUSTER, 1, repeats=4).host_bytes == each
        assert train("t", WORK, CLUSTER, 1, repeats=4, at_a_time=4).host_bytes == 2 * each
        assert train("t", WORK, CLUSTER, 1, repeats=9, at_a_time=9, share=0.25).host_bytes == 8 * each
        small = replace(CLUSTER, host_memory_bytes=1.5 * each)
        assert train("t", WORK, small, 1, repeats=4).limit != "host memory"
        assert train("t", WORK, small, 1, repeats=4, at_a_time=2).limit == "host memory"

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
        assert lines[0].startswith("unlearn: does not fit: 0 GB on a GPU with room for 0 of its 0 GB; more")
        assert "first bottleneck: " in lines[2]
        assert lines[3].startswith("2 of 4 GPUs are never used")


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


def test_an_attack_costs_its_texts_and_updates() -> None:
    """Of 12 texts, 2 of each of 3 steps: 18. Two workers of one text at a time make one micro-batch more a step."""
    attacked = replace(WORK, attack_steps=3, attack_items=2)
    one, more = (training.step(each, CLUSTER, 2) for each in (WORK, attacked))
    assert more.compute_s == pytest.approx(one.compute_s * 18 / 12)
    assert attacked.step_tokens == 18 * 4
    assert (WORK.micro_batches(2), attacked.micro_batches(2)) == (3, 6)
    assert (more.communication_s, more.launch_s) == (2 * one.communication_s, 2 * one.launch_s)
    assert more.optimizer_s == 4 * one.optimizer_s
    assert attacked.memory_bytes(2) == WORK.memory_bytes(2)


def test_published_figures_of_the_gpus() -> None:
    assert GPUS["h100"].flops_per_s == GPUS["h200"].flops_per_s == 989e12


def test_sizes_come_from_the_config_alone(model: Path) -> None:
    size = model_size(ModelSpec(source=str(model)))
    assert size.tied
    assert size.body == size.parameters - size.vocabulary * 64
