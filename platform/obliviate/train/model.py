"""The model that is trained: decoder and scoring in one module, sharded as one, with float32 master weights.

FSDP2 is used at every number of workers, one included, so that there is one path: parameters, gradients and optimiser
state are float32 shards; a forward pass gathers them in the compute dtype. A bfloat16 update at lr 1e-5 would round
away; here it is the float32 master that moves.

Shapes: B texts, T tokens, D hidden size, N wanted positions.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from obliviate import attention, mixed
from obliviate.blockwise import score_positions, wanted_hidden
from obliviate.decoder import (
    NO_CACHE,
    decoder_layers,
    decoder_of,
    exact,
    final_hidden,
    head_of,
    keeps_state,
    refusal,
    require_same_logits,
)
from obliviate.errors import UserError
from obliviate.head import AnyHead, Head
from obliviate.methods import ForgetObjective, Term
from obliviate.schema import LatentSpec, ModelSpec
from obliviate.scoring import Activation, AnyStat, needs_reference
from obliviate.source import adapter_of, base_of
from obliviate.train import dropout, packing, rotary
from obliviate.train.lora import add_lora, continue_adapter
from obliviate.train.reading import Parts, fill, opened, standing_in
from obliviate.train.shards import whole

PREFIX = "model."  # of the transformers model inside ScoredModel
ADAPTED = "base_model.model."  # of the same inside PEFT's
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Wanted = Mapping[str, tuple[slice, Tensor, Collection[AnyStat]]]  # pass -> its rows, where [B, T], and what
# Final hidden states [B, T, D], what layers put out, and a number for each token that is the same where texts share it.
Read = tuple[Tensor, dict[int | str, Tensor], Tensor | None]


class ScoredModel(nn.Module):
    """Runs the decoder once over a batch and scores each pass's wanted positions.

    Scoring lies inside this module's forward, so that the (often tied) lm_head is gathered when the chunks need it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rotates_by_text = rotary.by_text(self.causal_lm)
        self.packs = packing.can_pack(self.causal_lm) and not self.rotates_by_text
        self.asked_alone = keeps_state(self.causal_lm) or self.rotates_by_text  # its prompts cannot be padded
        # Of each pass that compares; plain tensors, not parameters: neither sharded nor trained.
        self.reference_heads: dict[str, AnyHead] = {}
        self.components: dict[Activation, Tensor] = {}  # orthonormal [D, K], of each that is wanted without them

    def forward(
        self,
        input_ids_BT: Tensor,
        attention_BT: Tensor,
        wanted: Wanted,
        reference_ND: Mapping[str, Tensor],
        keep_hidden: Mapping[str, tuple[slice, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """ "<pass>/<stat>" -> [B, T] of that pass's texts, or [B, T, D] of an activation, which is at every position
        (0 on padding where the texts were packed).

        `keep_hidden` adds "<pass>/hidden" -> [N, D], the final hidden states that predict the tokens it marks.
        A flat dictionary of tensors, because FSDP2 looks for the outputs that a backward pass starts from. Where
        nothing is wanted the texts keep their padding: whoever hooks into layers sees [B, T, D].
        """
        layers = {stat.layer for *_, stats in wanted.values() for stat in stats if isinstance(stat, Activation)}
        places = [(rows, wanted_BT) for rows, wanted_BT, _ in wanted.values()] + [*(keep_hidden or {}).values()]
        real_BT = attention_BT.bool()
        padded = not places or any((wanted_BT & ~real_BT[rows]).any() for rows, wanted_BT in places)
        packs = self.packs and not padded
        hidden_BTD, activations, alike_BT = self._read(input_ids_BT, real_BT, layers, packs=packs)
        head = head_of(self.causal_lm)
        out: dict[str, Tensor] = {}
        for name, (rows, wanted_BT, stats) in wanted.items():
            # Copies: FSDP2 hooks into outputs, and a hook on a view is easily lost.
            out |= {
                f"{name}/{s}": self._without(s, activations[s.layer][rows]) for s in stats if isinstance(s, Activation)
            }
            reference = None
            if any(map(needs_reference, stats)):
                reference = (reference_ND[name], self.reference_heads[name])
            if scored := {stat for stat in stats if not isinstance(stat, Activation)}:
                alike = None if alike_BT is None else alike_BT[rows]
                scores = score_positions(
                    hidden_BTD[rows], input_ids_BT[rows], wanted_BT, head, scored, reference, alike
                )
                out |= {f"{name}/{stat}": value_BT for stat, value_BT in scores.items()}
        for name, (rows, wanted_BT) in (keep_hidden or {}).items():
            out[f"{name}/hidden"] = wanted_hidden(hidden_BTD[rows], wanted_BT)
        return out

    def _without(self, stat: Activation, found_BTD: Tensor) -> Tensor:
        if not stat.without:
            return found_BTD.clone()
        basis_DK = self.components[stat]
        return found_BTD.float() - (found_BTD.float() @ basis_DK) @ basis_DK.T

    def _read(self, input_ids_BT: Tensor, real_BT: Tensor, layers: Collection[int | str], *, packs: bool) -> Read:
        if packs:
            inputs = packing.pack(input_ids_BT, real_BT)
        else:
            inputs = {"input_ids": input_ids_BT, "attention_mask": real_BT.long()}
            if self.rotates_by_text:
                inputs["position_ids"] = rotary.positions(real_BT)
        with _outputs(self.causal_lm, layers) as activations:
            hidden = decoder_of(self.causal_lm)(**inputs, use_cache=False)[0]
        hidden = final_hidden(self.causal_lm, hidden)
        if not packs:
            return hidden, activations, None
        mask = inputs["attention_mask"]
        unpacked = {layer: packing.unpack(found_1ND, mask) for layer, found_1ND in activations.items()}
        return packing.unpack(hidden, mask), unpacked, packing.Layout.of(mask).index_BT

    @torch.no_grad()
    def require_same_logits(self) -> None:
        """Raises UserError where the head is not understood, or a batch, as it is read here, gives other logits than
        the model for each text alone. Every worker calls it."""
        model, device = self.causal_lm, self.causal_lm.device
        real_BT = torch.arange(8, device=device) < torch.tensor([[8], [5]], device=device)
        ids_BT = torch.arange(8, device=device).expand(2, -1).clone()
        ids_BT[1, 3:] += 3  # the first three are the same
        training = self.training
        self.eval()
        first_1TV = require_same_logits(model, ids_BT.shape[1])
        second_1TV = model(input_ids=ids_BT[1:, real_BT[1]], use_cache=False).logits.float()
        hidden_BTD, _, _ = self._read(ids_BT, real_BT, (), packs=self.packs)
        for hidden_TD, real_T, own_1TV in zip(hidden_BTD, real_BT, (first_1TV, second_1TV), strict=True):
            own_TV = own_1TV[0]
            off_TV = (head_of(model).logits(hidden_TD[real_T]) - own_TV).abs()
            # A mean: in bfloat16 a token may go to another expert.
            if off_TV.mean() > own_TV.abs().mean() * (1e-3 if exact(model) else 0.1):
                raise UserError(refusal(model))
        self.train(training)

    @torch.no_grad()
    def say(self, ids_BT: Tensor, attention_BT: Tensor, max_new_tokens: int, stop_ids: Collection[int]) -> Tensor:
        """Greedy continuations of prompts that are padded on the left (of one alone where `asked_alone`), prompts
        included; what has ended is filled up with a stop id. Every worker calls it, as often as the others: they go on
        until all of them have ended."""
        said_BT: Tensor = self.causal_lm.generate(
            input_ids=ids_BT,
            attention_mask=attention_BT,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=not self.rotates_by_text and self.causal_lm.config.model_type not in NO_CACHE,
            eos_token_id=sorted(stop_ids),
            pad_token_id=min(stop_ids),
            synced_gpus=torch.distributed.get_world_size() > 1,
        )
        return said_BT

    def copy_head(self, dtype: torch.dtype) -> Head:
        """A frozen copy of the present output layer, for KL to the reference. Every worker calls it."""
        head = head_of(self.causal_lm)
        bias = None if head.bias_V is None else _copy(head.bias_V).to(dtype)
        return head._replace(weight_VD=_copy(head.weight_VD).to(dtype), bias_V=bias)

    @property
    def causal_lm(self) -> Any:
        """The transformers model, below any adapter wrapper."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def _outputs(model: nn.Module, layers: Collection[int | str]) -> Iterator[dict[int | str, Tensor]]:
    """What these layers put out while the block runs: [B, T, D] each."""
    found: dict[int | str, Tensor] = {}

    def keep(layer: int | str) -> Callable[[nn.Module, Any, Tensor | tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
            found[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layer_of(model, layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def layer_of(model: nn.Module, layer: int | str) -> nn.Module:
    """A decoder layer by its number, or any module by its name."""
    found: nn.Module = decoder_layers(model)[layer] if isinstance(layer, int) else model.get_submodule(layer)
    return found


def check_layers(terms: Sequence[Term], model: nn.Module, latent: LatentSpec | None = None) -> None:
    """Raises UserError for a layer that the model lacks, or that puts out no vector for each token: with the nearest
    names of those that do. Every worker calls it. Of a model without weights (`obliviate.models.skeleton`) every module
    is taken to put one out."""
    layers = {
        stat.layer: term.type
        for term in terms
        for stats in term.needs.values()
        for stat in stats
        if isinstance(stat, Activation)
    }
    layers |= {layer: term.type for term in terms if isinstance(term, ForgetObjective) for layer in term.steered}
    layers |= dict.fromkeys(() if latent is None else latent.layers, "latent")
    if not layers:
        return
    last, usable = len(decoder_layers(model)) - 1, list[str]()
    if any(isinstance(layer, str) for layer in layers):
        usable = _usable(model) if isinstance(model, ScoredModel) else [name for name, _ in model.named_modules()]
    for layer, term_type in layers.items():
        if isinstance(layer, int) and layer > last:
            raise UserError(f"{term_type}: layer: {layer}: the model has {last + 1} layers, 0 to {last}")
        if isinstance(layer, str) and layer not in usable:
            near = get_close_matches(layer, usable, n=3, cutoff=0)
            raise UserError(
                f"{term_type}: layer: {layer}: no module of this name puts out a vector for each token; the nearest: "
                f"{', '.join(near)}"
            )


@torch.no_grad()
def _usable(model: ScoredModel) -> list[str]:
    """Names of the modules that put out [B, T, D] when texts are read."""
    ids_BT = torch.zeros(2, 3, dtype=torch.int64, device=next(model.parameters()).device)
    names = [name for name, _ in model.causal_lm.named_modules() if name]
    model.eval()
    with _outputs(model.causal_lm, names) as outputs:
        model(ids_BT, torch.ones_like(ids_BT), {}, {})
    model.train()
    return [
        name
        for name in names
        if isinstance(found := outputs.get(name), Tensor) and found.dim() == 3 and found.shape[:2] == ids_BT.shape
    ]


def build(
    spec: ModelSpec,
    *,
    seed: int,
    activation_checkpointing: bool,
    device: torch.device,
    trainable: re.Pattern[str] | None = None,
) -> ScoredModel:
    """Open, add adapters, freeze what `trainable` is not found in, shard over the process group (which must exist), and
    read: each worker its own parts. In training mode; nothing is computed yet (`checked` does).

    Raises UserError where `trainable` is found in no parameter's name.
    """
    model, parts = _opened(spec, seed)
    if activation_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(
            f"optim.activation_checkpointing: {type(model).__name__} cannot recompute activations; set it to false"
        )
    if trainable is not None:
        _restrict(model, trainable)
    if activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    mixed.allow(model, DTYPES[spec.compute_dtype], device.type)
    scored = ScoredModel(model)
    world = torch.distributed.get_world_size()
    dtype = DTYPES[spec.compute_dtype]
    keywords: dict[str, Any] = {"mesh": init_device_mesh(device.type, (world,))}
    if dtype != torch.float32:
        # Gradients are summed over workers in float32. A single one has nothing to sum; they become float32 after that
        # all the same, and torch's copies are several times as fast where both sides are of one type.
        keywords["mp_policy"] = MixedPrecisionPolicy(dtype, reduce_dtype=torch.float32 if world > 1 else None)
    for layer in decoder_layers(scored):
        fully_shard(layer, reshard_after_forward=world > 1, **keywords)
    fully_shard(scored, **keywords)
    assert isinstance(scored, FSDPModule)
    fill(scored, parts, source_name, device)
    for method in ("say", "require_same_logits"):
        register_fsdp_forward_method(scored, method)  # or the head and the embeddings would not be gathered
    return scored.train()


def checked(model: ScoredModel) -> ScoredModel:
    """The model, whose logits were compared with those of the plain one; UserError for a family that is not understood.
    Every worker calls it."""
    model.require_same_logits()
    reshard(model)
    return model


def reshard(model: ScoredModel) -> None:
    """After a forward pass without a backward one: whoever lists the parameters then gets the shards, and what is done
    to these is seen by the next pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _opened(spec: ModelSpec, seed: int) -> tuple[Any, Parts]:
    """The model without its weights, and where these come from: whole, with new adapters, or with those that the source
    brings; never without what the source is."""
    adapter, base = adapter_of(spec), base_of(spec)
    continued = spec.lora is not None and adapter is not None
    model, parts = opened(base if continued and base is not None else spec)
    model.config.use_cache = False
    attention.use(model, packing.NAME)
    if not spec.dropout:
        dropout.turn_off(model)
    if spec.lora is None:
        return model, parts
    with standing_in(model):
        adapted = add_lora(model, spec.lora, seed) if adapter is None else continue_adapter(model, adapter, spec.lora)
    return adapted, parts


def source_name(name: str) -> str:
    """What a weight of the trained model is called in one without scoring and adapters."""
    return plain_name(name.removeprefix(PREFIX).removeprefix(ADAPTED))


def plain_name(name: str) -> str:
    return name.replace(".base_layer", "").replace(".modules_to_save.default", "").replace(".original_module", "")


def _restrict(model: nn.Module, trainable: re.Pattern[str]) -> None:
    """Of the trained parameters (with adapters, theirs) keep those whose name the pattern is found in."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    chosen = {name for name in parameters if trainable.search(name)}
    if not chosen:
        near = get_close_matches(trainable.pattern.replace("\\", ""), parameters, n=3, cutoff=0)
        raise UserError(
            f"method.trainable: {trainable.pattern}: found in no parameter's name; the nearest: {', '.join(near)}"
        )
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in chosen)


def _copy(parameter: Tensor) -> Tensor:
    """The unsharded values of a parameter, detached and copied."""
    return whole(parameter).detach().clone()
