"""Whether a model's files fit each other and the config: told before any worker starts."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate import companions
from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate.layout import named_in_files
from obliviate.models import content_of, encoder_of, load_config, skeleton
from obliviate.schema import ModelSpec
from obliviate.source import adapter_of, base_of, file_of, locate, tensors_of
from obliviate.weights import Stored

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

PACKAGES = {
    "bitsandbytes": "bitsandbytes", "gptq": "gptqmodel", "awq": "gptqmodel", "hqq": "hqq", "aqlm": "aqlm",
    "quanto": "optimum-quanto", "torchao": "torchao", "eetq": "eetq", "vptq": "vptq", "spqr": "spqr_quant",
    "compressed-tensors": "compressed-tensors", "auto-round": "auto-round",
    "quark": "amd-quark", "higgs": "flute-kernel",
}  # fmt: skip
PLAIN_AFTER_LOADING = ("mxfp4",)  # transformers turns it into plain numbers where it has no kernels for it


def check(spec: ModelSpec, *, trained: bool = False) -> None:
    """Raises UserError for weights, config and tokenizer that do not belong together, for texts longer than the model
    has positions for, and for a quantised model that cannot be read here or, `trained`, not be trained.

    Of the weights only their shapes are read; of two ends that the config shares, both. What fitted once is not looked
    at again: many stages begin with the same model.
    """
    _check(spec, content_of(spec), trained=trained)


@lru_cache(maxsize=64)
def _check(spec: ModelSpec, content: str, *, trained: bool) -> None:
    """`content`: of the files, so that other ones are looked at."""
    config = load_config(spec)
    text = config.get_text_config()
    _check_quantisation(spec, config, trained=trained)
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and spec.max_length > positions:
        raise UserError(
            f"model.max_length: {spec.max_length}: {spec.source} has positions for {positions} tokens; set "
            f"model.max_length to {positions} or less"
        )
    tensors = tensors_of(spec, fetch=False)
    if tensors and not hasattr(config, "quantization_config"):
        model = skeleton(spec)
        _check_shapes(spec, model, tensors)
        _check_layers(spec, model, tensors)
        _check_ends(spec, model, tensors)
    encoder = encoder_of(spec)
    used = {*encoder.prompt("Who?"), encoder.end_of_turn_id}
    if beyond := sorted(token for token in used if token >= text.vocab_size):
        raise UserError(_beyond(spec, beyond[0], text.vocab_size, "its chat template"))


def check_rows(spec: ModelSpec, rows: Iterable[Row]) -> None:
    """Raises UserError for a text with a token that the model has no embedding for. Only a tokenizer that is larger
    than the embeddings has such tokens, often ones that no text holds (Gemma 3's for images)."""
    tokenizer, size = encoder_of(spec).tokenizer, load_config(spec).get_text_config().vocab_size
    if len(tokenizer) <= size:
        return
    for row in rows:
        for text in _texts(dataclasses.astuple(row)):
            if beyond := [token for token in tokenizer(text, add_special_tokens=False).input_ids if token >= size]:
                raise UserError(_beyond(spec, beyond[0], size, f"the text {text[:80]!r}"))


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from _texts(value)


def _beyond(spec: ModelSpec, token: int, size: int, where: str) -> str:
    tokenizer = encoder_of(spec).tokenizer
    return (
        f"model.source: {spec.source}: the tokenizer has {len(tokenizer)} tokens and the model embeddings of {size}, "
        f"and {where} holds {tokenizer.convert_ids_to_tokens(token)} ({token}): take the tokenizer that belongs to "
        "these weights, or a model whose embeddings were resized for it"
    )


def _check_quantisation(spec: ModelSpec, config: Any, *, trained: bool) -> None:
    from importlib.util import find_spec

    from transformers.quantizers import AutoHfQuantizer

    given = getattr(config, "quantization_config", None)
    if given is None or locate((base_of(spec) or spec).source).endswith(".gguf"):  # which is read as plain numbers
        return
    values = given if isinstance(given, Mapping) else given.to_dict()
    method = str(values.get("quant_method", "bitsandbytes" if values.get("load_in_4bit") else "unknown"))
    if trained and method not in PLAIN_AFTER_LOADING:
        raise UserError(
            f"model.source: {spec.source}: its weights are quantised ({method}), and training needs plain ones; give "
            "the model that they were made from, with model.lora where it is too large"
        )
    package = PACKAGES.get(method)
    if package is not None and find_spec(package.replace("-", "_").replace("optimum_", "optimum.")) is None:
        raise UserError(
            f"model.source: {spec.source}: its weights are quantised ({method}), and {package} is not installed; pip "
            f"install {package}, or give the model with plain weights"
        )
    try:
        AutoHfQuantizer.from_config(given, pre_quantized=True).validate_environment()
    except (ImportError, ValueError, RuntimeError) as error:
        raise UserError(
            f"model.source: {spec.source}: its weights are quantised ({method}), which cannot be read here "
            f"({' '.join(str(error).split())[:200]}); give the model with plain weights"
        ) from error


def read_in_parts(spec: ModelSpec) -> bool:
    """Whether each worker of a training reads its own parts of the weights; else the first one reads them all. Of a
    hub id that is not here yet it is not known, and taken to be so."""
    adapter = adapter_of(spec)
    if adapter is not None and spec.lora is None:
        return False
    tensors = tensors_of(spec, fetch=False)
    if not tensors:
        return not Path(locate(spec.source)).exists() and not locate(spec.source).endswith(".gguf")
    return named_in_files(skeleton(spec), tensors) is not None


def _check_shapes(spec: ModelSpec, model: "nn.Module", tensors: Mapping[str, Stored]) -> None:
    for name, parameter in model.state_dict().items():
        found = tensors.get(name)
        if found is None or found.shape == tuple(parameter.shape):
            continue
        config = model.config.get_text_config()  # type: ignore[union-attr,operator]
        if parameter.shape[1:] == found.shape[1:] and parameter.shape[0] == config.vocab_size:
            fix = f"set vocab_size in its config.json to {found.shape[0]}, where the weights are right"
        else:
            fix = "take config.json and weights of one model"
        raise UserError(
            f"model.source: {spec.source}: {name} has shape {list(found.shape)} in the file and "
            f"{list(parameter.shape)} by the config (vocab_size {config.vocab_size}); {fix}"
        )


def _check_layers(spec: ModelSpec, model: "PreTrainedModel", tensors: Mapping[str, Stored]) -> None:
    """Where the file has more layers than the config, of which the others would be dropped; but for those that the
    family itself leaves out (DeepSeek-V3's for several tokens at once)."""
    from obliviate.decoder import decoder_layers

    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    left_out = model._keys_to_ignore_on_load_unexpected or ()
    for name in tensors:
        number = name.removeprefix(f"{prefix}.").partition(".")[0] if name.startswith(f"{prefix}.") else ""
        if number.isdecimal() and int(number) >= len(layers) and not any(re.search(each, name) for each in left_out):
            raise UserError(
                f"model.source: {spec.source}: its file holds {name}, and by config.json there are {len(layers)} "
                "layers, which would leave that out; take config.json and weights of one model"
            )


def _check_ends(spec: ModelSpec, model: "PreTrainedModel", tensors: Mapping[str, Stored]) -> None:
    """Where the config shares the output layer with the embeddings and the file has one of its own."""
    import torch
    from safetensors import safe_open

    for target, source in model.all_tied_weights_keys.items():
        if target not in tensors or source not in tensors:
            continue
        read = []
        for name in (target, source):
            with safe_open(tensors[name].file, framework="pt") as weights:
                read.append(weights.get_tensor(name))
        if read[0].shape != read[1].shape or not torch.equal(*read):
            raise UserError(
                f"model.source: {spec.source}: config.json says tie_word_embeddings: true, and {target} in its file is "
                f"another than {source}; set tie_word_embeddings to false to use it, or remove it from the file"
            )


def notes(spec: ModelSpec) -> list[str]:
    """What training does otherwise than the source's files or the config say, in a line each.

    Raises UserError for what an export could not mend.
    """
    found = []
    if (config := companions.read(file_of(spec, companions.CONFIG))) is not None:
        mended = companions.repaired(config, companions.read(file_of(spec, companions.GENERATION)))
        found += [f"model.source: {spec.source}: {note}" for note in mended.notes]
    adapter = adapter_of(spec)
    if adapter is not None and spec.lora is not None:
        rank, alpha = adapter.config.get("r"), adapter.config.get("lora_alpha")
        if (rank, alpha) != (spec.lora.rank, spec.lora.alpha):
            found.append(
                f"model.lora: rank {spec.lora.rank} and alpha {spec.lora.alpha:g} have no effect: {spec.source} is an "
                f"adapter of rank {rank} and alpha {alpha:g}, which is trained further as it is"
            )
    return found
