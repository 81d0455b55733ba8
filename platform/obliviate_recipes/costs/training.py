"""What training costs: the steps of the project's own loop (FSDP2, float32 masters, scoring by blocks), counted.

N parameters of the body (in FLOPs those that a token meets: of a mixture of experts its own few), V vocabulary, D
hidden size, L layers, W workers of one GPU each, T tokens of a text. A product of m values with an m x n matrix is 2mn
floating-point operations (FLOPs).

- Forward, each token: 2N, and 4TD a layer for attention (scores and mixing, not halved for causality). Backward: as
  much again for the activations' gradients, and once more for the weights' where they are trained; attention has no
  weights but two factors with a gradient each: twice its forward. Activation checkpointing: the forward once more.
  Texts count as of one length; of different ones attention alone reads the padding.
- Head, each position that is scored: 2VD forward, as much for the hidden states' gradient, for the weight's where it is
  trained, and for recomputation where the logits of a kind of text are not small enough to be kept
  (obliviate.blockwise; decided here by their mean). Texts count as if they shared nothing from their beginning on.
- Memory: 16 bytes a trained parameter (float32 master, gradient, two moments of Adam; 8 more for a second state, 8 for
  a base of both states, 4 where a term compares with the initial weight or a step's weights are kept, 8 for rectified
  gradients, 4 for a held one, 16 for an attack), 4 a frozen one, and 4 more of the body where forgetting sees rounded
  weights, over W; what is gathered in the compute dtype: everything at W = 1, else two layers and the head; where all
  is trained the whole gradients of both ends and of one layer, in the compute dtype and in float32; activations of one
  micro-batch, 34 bytes a token, layer and hidden unit in 16 bits (Korthikanti et al. 2022, arXiv:2205.05198,
  section 4, without the attention matrix), with checkpointing 2 of them and one whole layer; the logits of all kinds of
  text that are kept.
- Communication, each micro-batch of each round: the parameters are gathered in the compute dtype before forward, the
  body's once more before backward, and trained ones' gradients reduced in float32; in a ring each worker sends
  (W - 1)/W of it.
"""

from dataclasses import dataclass
from math import ceil

from obliviate.models import ModelSize
from obliviate_recipes.costs.hardware import Cluster

START_S = 30.0  # processes, imports, CUDA, the process group
PIECE_BYTES = 64 * 2**20  # that a worker reads, sends or writes at a time (obliviate.train.reading)
LAUNCH_S = 1e-3  # Python and kernel launches of a layer, forward and backward: a GPU with less to do waits
COPY_BYTES_PER_S = 5e9  # of one worker's conversion of the weights to float32
ADAM_BYTES = 28  # read: parameter, gradient, two moments; written: parameter, two moments
ACTIVATION_BYTES = 34  # a token, layer and hidden unit, in 16 bits
MASTER_BYTES, STATE_BYTES = 4, 16  # of a frozen parameter; of a trained one
MOMENT_BYTES, INITIAL_BYTES = 8, 4  # of a trained parameter: a further state of Adam; its first value, kept
CHOSEN_BYTES = 4  # of a trained parameter: its value after the step that is chosen so far
RECTIFIED_BYTES = 8  # of a trained parameter: its forget gradient, held, and the running mean of the regularizers'
HELD_BYTES = 4  # of a trained parameter: its forget gradient, held while the regularizers' is computed
TAMPERED_BYTES = 16  # of a trained parameter: its value, its gradients' mean along an attack, the attacker's moments
SCORING_BYTES = 4 * 32 * 2**20  # a few blocks of logits


@dataclass(frozen=True)
class TrainingWork:
    size: ModelSize
    steps: int
    items: int  # of a step, over all workers
    micro_items: int  # of one forward pass
    texts_per_item: float  # forward passes of the trained model for each item, in all rounds together
    tokens: float  # of a text, on average
    scored: float  # positions of a text whose prediction is scored
    reference_texts: int = 0  # that the frozen model runs over once, before the first step
    measured_texts: int = 0  # that the trained model runs over between steps, in all
    checkpointing: bool = False
    compute_bytes: int = 2  # of a number in the compute dtype
    rounds: int = 1  # forward and backward passes that a step makes one after another, each over some of the texts
    updates: int = 1  # of the weights, in a step, those of attacks left out
    attack_steps: int = 0  # of fine-tuning attacks that a step makes to resist them
    attack_items: int = 0  # texts of each
    state_bytes: int = STATE_BYTES  # of a trained parameter
    rounded_bytes: int = 0  # of a parameter of the body: a copy of what is rounded while a pass runs
    stored_bytes: int = 2  # of a weight in the model that is written
    in_parts: bool = True  # whether each worker reads its own weights; else the first one reads all

    @property
    def full(self) -> bool:
        """Whether all parameters are trained, not adapters beside frozen ones."""
        return self.size.trained == self.size.parameters

    @property
    def step_tokens(self) -> float:
        return self.step_texts * self.tokens

    @property
    def step_texts(self) -> float:
        return self.items * self.texts_per_item + self.attack_steps * self.attack_items

    @property
    def forward_flops(self) -> float:
        """Of one text, without the head."""
        size = self.size
        return self.tokens * (2 * size.active + size.layers * 4 * self.tokens * size.hidden_size)

    @property
    def head_flops(self) -> float:
        """Of one text, forward alone."""
        return self.scored * 2 * self.size.vocabulary * self.size.hidden_size

    def _micro_items(self, workers: int) -> int:
        """Of one forward pass of one worker."""
        return min(self.micro_items, ceil(self.items / workers))

    def _kept_bytes(self, workers: int) -> float:
        """Of the logits of one text of a micro-batch: 0 where they are made again in the backward pass."""
        from obliviate.blockwise import KEPT_BYTES

        each = self.scored * self.size.vocabulary * self.compute_bytes
        return each if self._micro_items(workers) * each <= KEPT_BYTES else 0.0

    def step_flops(self, workers: int) -> float:
        """Of all workers together."""
        size = self.size
        folded = size.folded and size.folded - size.idle  # their whole gradient is made before the adapters'
        weights = self.tokens * 2 * (size.active if self.full else size.trained + folded)
        attention = self.tokens * size.layers * 4 * self.tokens * size.hidden_size
        backward = self.tokens * 2 * size.active + weights + 2 * attention
        again = self.forward_flops if self.checkpointing else 0.0
        head = (2 + self.full + (not self._kept_bytes(workers))) * self.head_flops
        return self.step_texts * (self.forward_flops + backward + again + head)

    def flops(self, workers: int) -> float:
        """Of a run, all workers together."""
        forward = (self.reference_texts + self.measured_texts) * (self.forward_flops + self.head_flops)
        return self.steps * self.step_flops(workers) + forward

    def micro_batches(self, workers: int) -> int:
        """Of one worker in one step, in all its rounds and attacks."""
        own, attack = (ceil(items / (self.micro_items * workers)) for items in (self.items, self.attack_items))
        return self.rounds * own + self.attack_steps * attack

    def moved_bytes(self, workers: int) -> float:
        """That one worker sends in one step."""
        size = self.size
        each = self.compute_bytes * (size.parameters + size.body) + 4 * size.trained
        return self.micro_batches(workers) * each * (workers - 1) / workers

    def memory_bytes(self, workers: int) -> float:
        """Of one GPU."""
        size = self.size
        state = self.state_bytes * size.trained + MASTER_BYTES * (size.parameters - size.trained)
        state += self.rounded_bytes * size.body
        ends = size.vocabulary * size.hidden_size * (1 if size.tied else 2)
        gathered = size.parameters if workers == 1 else ends + 2 * size.body / size.layers
        texts = self._micro_items(workers) * self.texts_per_item / self.rounds  # at a time
        tokens = texts * self.tokens
        layers = size.layers * 2 / ACTIVATION_BYTES + 1 if self.checkpointing else size.layers
        activations = tokens * ACTIVATION_BYTES * self.compute_bytes / 2 * size.hidden_size * layers
        logits = texts * self._kept_bytes(workers) + SCORING_BYTES
        # The sum of a weight and its adapter is kept for the backward pass, which makes it again when checkpointing.
        gathered += size.folded / size.layers if self.checkpointing else size.folded
        # Both ends are one unit of sharding: their gradients are whole until the backward pass has ended, and are
        # then reduced in float32. A layer's are, too, but one layer's at a time.
        whole = (ends + size.body / size.layers) * (self.compute_bytes + MASTER_BYTES) if self.full else 0.0
        return state / workers + gathered * self.compute_bytes + whole + activations + logits

    def host_bytes(self, workers: int, cluster: Cluster, share: float = 1.0, at_a_time: int = 1) -> float:
        """Of one node while models are read and written: a piece or two for each worker, and for each run one layer,
        to which adapters are added, or the whole model, where it is not read in parts; all in float32.

        `workers` of each of the runs that start together, each with this `share` of a GPU.
        """
        here = min(workers * at_a_time, round(cluster.gpus_per_node / share))
        runs = ceil(here / workers)
        of_run = self.size.parameters if not self.in_parts else self.size.body / self.size.layers
        return 2 * PIECE_BYTES * here + MASTER_BYTES * of_run * runs


@dataclass(frozen=True)
class Step:
    """Seconds of one step on the slowest worker. The first three overlap: the longest counts."""

    compute_s: float
    communication_s: float
    launch_s: float
    optimizer_s: float

    @property
    def s(self) -> float:
        return max(self.compute_s, self.communication_s, self.launch_s) + self.optimizer_s

    @property
    def limit(self) -> str:
        parts = {
            "compute": self.compute_s,
            "communication": self.communication_s,
            "launch": self.launch_s,
            "optimizer": self.optimizer_s,
        }
        return max(parts, key=lambda name: parts[name])


def step(training: TrainingWork, cluster: Cluster, workers: int) -> Step:
    rate = cluster.gpu.flops_per_s * cluster.utilization
    state = ADAM_BYTES * training.size.trained / workers
    again = 4 / 3 if training.checkpointing else 1.0  # forward, forward once more, and backward of twice its length
    return Step(
        compute_s=training.step_flops(workers) / workers / rate,
        communication_s=training.moved_bytes(workers) / cluster.bandwidth(workers),
        launch_s=training.micro_batches(workers) * training.size.layers * LAUNCH_S * again,
        optimizer_s=(training.updates + training.attack_steps) * state / cluster.gpu.memory_bytes_per_s,
    )


def times(
    training: TrainingWork, cluster: Cluster, workers: int, at_a_time: int = 1, gpus: float | None = None
) -> dict[str, float]:
    """Part of the run -> seconds; "steps" is split no further, `step` says by what it is limited.

    `at_a_time` such runs start and end together, on `gpus` in all (None: one for each worker).
    """
    gpus = workers * at_a_time if gpus is None else gpus
    size, rate = training.size, cluster.gpu.flops_per_s * cluster.utilization
    forward_s = (training.forward_flops + training.head_flops) / workers / rate  # of one text
    stored = 2 * size.parameters  # bfloat16, as models are published
    converted = MASTER_BYTES * size.parameters / (workers if training.in_parts else 1)
    return {
        "start": START_S,
        "load": stored / cluster.reading(gpus) + converted / COPY_BYTES_PER_S,
        "reference": training.reference_texts * forward_s,
        "steps": training.steps * step(training, cluster, workers).s,
        "measure": training.measured_texts * forward_s,
        "export": training.stored_bytes * size.parameters / cluster.writing(gpus, at_a_time),  # by one worker
    }
