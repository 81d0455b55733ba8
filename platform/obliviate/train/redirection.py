"""The closed form of LUNAR (arXiv:2502.07218): one matrix, changed so that forget prompts go elsewhere.

Shapes: B texts, T tokens, N real tokens; D inputs of the matrix, H the model's hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import Pass, Redirection, Text
from obliviate.train.batch import Texts
from obliviate.train.gram import linear_layers, outputs, width
from obliviate.train.job import Job
from obliviate.train.model import ScoredModel, layer_of, reshard
from obliviate.train.shards import local, mine
from obliviate.train.together import turns_of

Prompt = Sequence[int]


@dataclass
class Seen:
    """Sums over prompts. The first token of each is in `gram_DD` alone."""

    gram_DD: Tensor  # x x^T of the matrix' inputs
    inputs_D: Tensor  # x
    squares: Tensor  # |x|^2
    states_H: Tensor  # what the layer puts out at the last token


class Redirected:
    """Made of the starting model; all workers call it alike. Raises UserError for a layer without such a matrix."""

    again = False  # the step is known

    def __init__(self, job: Job, model: ScoredModel, texts: Texts, spec: Redirection) -> None:
        self._model, self._block = model, layer_of(model.causal_lm, spec.layer)
        self._name, self._matrix = _last_matrix(model, self._block, spec)
        self._size, self._device = job.optim.micro_batch_size, next(model.parameters()).device
        if bare := next((number for number, row in enumerate(job.forget, 1) if not row.question), None):
            raise UserError(f"method: lunar moves prompts, and forget row {bare} is a plain text; give it a question")
        count = len(job.retain)
        kept = np.random.default_rng([job.seed, count]).permutation(count)[: spec.texts]
        forget = [Item(place) for place in range(len(job.forget))]
        of_forget = self._see(_prompts(texts, Pass.FORGET, forget))
        of_retain = self._see(_prompts(texts, Pass.RETAIN, [Item(retain=int(place)) for place in kept]))
        unknown = [texts.encoder.prompt(prompt) for prompt in spec.prompts]
        self._to_H = self._see(unknown).states_H / len(unknown) - of_forget.states_H / len(forget)
        gram_DD = of_forget.gram_DD + of_retain.gram_DD
        mean = (of_forget.squares + of_retain.squares) / len(gram_DD)
        gram_DD.diagonal().add_(spec.ridge * mean)
        self._along_D = torch.linalg.solve(gram_DD, of_forget.inputs_D)

    @torch.no_grad()
    def step(self, length: float) -> float:
        """The direction's norm."""
        change = torch.outer(self._to_H, self._along_D).float()
        if isinstance(self._matrix, Conv1D):
            change = change.T.contiguous()
        weight = dict(self._model.named_parameters())[f"{self._name}.weight"]
        local(weight).add_(mine(change, weight), alpha=length)
        return sqrt(float(change.square().sum()))

    @torch.no_grad()
    def _see(self, prompts: Sequence[Prompt]) -> Seen:
        inputs, hidden = width(self._matrix), self._model.causal_lm.config.get_text_config().hidden_size
        zeros = [torch.zeros(shape, dtype=torch.float64, device=self._device) for shape in
                 ((inputs, inputs), (inputs,), (), (hidden,))]  # fmt: skip
        seen = Seen(*zeros)
        self._model.eval()
        for part, counted in turns_of(prompts, self._size):
            self._add(seen, part, counted=counted)
        self._model.train()
        reshard(self._model)
        for total in zeros:
            dist.all_reduce(total)
        return seen

    def _add(self, seen: Seen, prompts: Sequence[Prompt], *, counted: bool) -> None:
        lengths_B = torch.tensor([len(each) for each in prompts], device=self._device)
        rows = [torch.tensor(list(each), device=self._device) for each in prompts]
        ids_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real_BT = torch.arange(ids_BT.shape[1], device=self._device) < lengths_B[:, None]
        with _kept(self._matrix, self._block) as found:
            self._model(ids_BT, real_BT.long(), {}, {})
        if not counted:
            return
        x_BTD, h_BTH = found["inputs"].double(), found["output"].double()
        x_ND, later_ND = x_BTD[real_BT], x_BTD[:, 1:][real_BT[:, 1:]]
        seen.gram_DD += x_ND.T @ x_ND
        seen.inputs_D += later_ND.sum(0)
        seen.squares += later_ND.square().sum()
        seen.states_H += h_BTH[torch.arange(len(rows), device=self._device), lengths_B - 1].sum(0)


def _prompts(texts: Texts, each: Text, items: Sequence[Item]) -> list[Prompt]:
    texts.encode((each,), items)
    encoded = [texts[texts.key(each, item)] for item in items]
    return [text.input_ids[: max(1, text.prompt_length)] for text in encoded]


def _last_matrix(model: ScoredModel, block: nn.Module, spec: Redirection) -> tuple[str, nn.Module]:
    """The layer's last linear layer, whose outputs are added to the hidden state, and its name."""
    within = set(block.modules())
    found = [(name, layer) for name, layer in linear_layers(model).items() if layer in within]
    hidden = model.causal_lm.config.get_text_config().hidden_size
    name, layer = found[-1] if found else ("", None)
    if layer is None or outputs(layer) != hidden:
        raise UserError(
            f"method.layer: {spec.layer}: has no linear layer as its last that puts out hidden states and is trained; "
            "give a decoder layer, and leave method.trainable out"
        )
    return name, layer


@contextmanager
def _kept(matrix: nn.Module, block: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the matrix reads and what the layer puts out, while the block runs."""
    found: dict[str, Tensor] = {}

    def read(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found["inputs"] = inputs[0]

    def put_out(_: nn.Module, __: Any, output: Any) -> None:
        found["output"] = output[0] if isinstance(output, tuple) else output

    handles = [matrix.register_forward_pre_hook(read), block.register_forward_hook(put_out)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
