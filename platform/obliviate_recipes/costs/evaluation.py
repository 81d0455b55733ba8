"""What measuring a model costs: answers generated token by token, and true and false answers scored in one pass.

M parameters that a token is multiplied with (body and lm_head; of a mixture of experts those of its own). Generating: a
replica answers up to BATCH questions at once; each token of all of them reads the weights once (2 bytes each in
bfloat16, of experts as many as the answers choose at most) and costs 2M FLOPs an answer, whichever takes longer.
Reading questions and scoring: 2M FLOPs a token. What the cache of keys and values costs, and judging
answers (a driver's CPUs do it), is left out.
"""

from dataclasses import dataclass
from math import ceil

from obliviate.models import ModelSize
from obliviate_recipes.costs.hardware import Cluster

ENGINE_START_S = 60.0  # of vLLM: process, compilation, CUDA graphs
BATCH = 256  # answers under way in a replica
WEIGHT_BYTES = 2
CACHE_SHARE = 0.2  # of a GPU's memory that must be left for keys and values


@dataclass(frozen=True)
class InferenceWork:
    size: ModelSize
    questions: int
    question_tokens: float  # with the template
    answer_tokens: float  # that are generated for each question
    scored_texts: int
    scored_tokens: float  # of question and answer together
    replicas: int
    tensor_parallel: int = 1

    @property
    def gpus(self) -> int:
        return self.replicas * self.tensor_parallel

    @property
    def multiplied(self) -> int:
        return self.size.active + self.size.vocabulary * self.size.hidden_size

    def read(self, answers: int) -> int:
        """Parameters that one more token of each answer reads."""
        return self.multiplied - self.size.active + min(self.size.body, answers * self.size.active)

    @property
    def tokens(self) -> float:
        generated = self.questions * (self.question_tokens + self.answer_tokens)
        return generated + self.scored_texts * self.scored_tokens

    @property
    def flops(self) -> float:
        return 2 * self.multiplied * self.tokens

    def memory_bytes(self, cluster: Cluster) -> float:
        """Of one GPU, with the least room for keys and values that makes sense."""
        weights = WEIGHT_BYTES * self.size.parameters / self.tensor_parallel
        return weights + CACHE_SHARE * cluster.gpu.memory_bytes


def times(
    measuring: InferenceWork, cluster: Cluster, at_a_time: int = 1, gpus: float | None = None
) -> dict[str, float]:
    """Part of the measurement -> seconds, of the slowest replica.

    `at_a_time` such measurements start together, on `gpus` in all (None: those of whole replicas).
    """
    gpus = measuring.gpus * at_a_time if gpus is None else gpus
    split = measuring.tensor_parallel
    rate = cluster.gpu.flops_per_s * cluster.utilization * split
    mine = ceil(measuring.questions / measuring.replicas)
    together = min(mine, BATCH)
    token_s = max(
        WEIGHT_BYTES * measuring.read(together) / (cluster.gpu.memory_bytes_per_s * split),
        2 * measuring.multiplied * together / rate,
    )
    rounds = ceil(mine / together) if mine else 0
    read = mine * measuring.question_tokens
    score = ceil(measuring.scored_texts / measuring.replicas) * measuring.scored_tokens
    return {
        "start": ENGINE_START_S,
        "load": WEIGHT_BYTES * measuring.size.parameters / cluster.reading(gpus),
        "generate": rounds * measuring.answer_tokens * token_s + 2 * measuring.multiplied * read / rate,
        "score": 2 * measuring.multiplied * score / rate,
    }
