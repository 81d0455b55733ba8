"""Exact entropies out of vLLM, which itself returns the most likely tokens only.

vLLM's worker hands every step's logits to this meter, which notes the entropy of marked requests. It changes nothing
but of requests that retell a text: to those it leaves one token to choose. The reader, mixed into the same worker,
gives the entropies away. Both run in the engine's process.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

from obliviate_serve.vllm import ENTROPY_KEY, RETOLD_KEY

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import SamplingParams

MAX_REQUESTS = 256  # whose entropies are kept; the oldest give way

_entropies: OrderedDict[str, dict[int, float]] = OrderedDict()  # request -> place in the answer -> entropy, nats


class Marked(NamedTuple):
    request: str
    output: list[int]  # vLLM's own list, which grows
    retold: list[int]  # tokens that there is no choice in


class EntropyMeter(LogitsProcessor):  # type: ignore[misc]
    """Rows of the logits are requests; `_rows` follows vLLM's moving them about."""

    def __init__(self, vllm_config: Any, device: "torch.device", is_pin_memory: bool) -> None:
        self._rows: dict[int, Marked] = {}

    @classmethod
    def validate_params(cls, sampling_params: "SamplingParams") -> None:
        """Nothing can be wrong: the mark comes from the server itself."""

    def is_argmax_invariant(self) -> bool:
        return False  # those are left out of greedy batches

    def update_state(self, batch_update: Any) -> None:
        from vllm.v1.sample.logits_processor import process_dict_updates

        process_dict_updates(self._rows, batch_update, _marked)

    def apply(self, logits: "Tensor") -> "Tensor":
        if self._rows:
            rows = list(self._rows)
            entropy_N = torch.special.entr(logits[rows].float().softmax(-1)).sum(-1).tolist()
            for (row, marked), entropy in zip(self._rows.items(), entropy_N, strict=True):
                # A part of a long prompt is a step without a token: the next step writes to the same place.
                place = len(marked.output)
                _entropies.setdefault(marked.request, {})[place] = entropy
                if place < len(marked.retold):
                    logits[row] = -torch.inf
                    logits[row, marked.retold[place]] = 0.0
        return logits


class EntropyReader:
    """Becomes a part of vLLM's worker."""

    def entropies(self, request: str) -> dict[int, float]:
        return _entropies.get(request, {})


def _marked(parameters: "SamplingParams", prompt: list[int] | None, output: list[int]) -> Marked | None:
    arguments = parameters.extra_args or {}
    request = arguments.get(ENTROPY_KEY)
    if request is None:
        return None
    _entropies.setdefault(request, {})
    while len(_entropies) > MAX_REQUESTS:
        _entropies.popitem(last=False)
    return Marked(request, output, arguments[RETOLD_KEY])
