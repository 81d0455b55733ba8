"""Loading a language model from wherever it lies: a Hugging Face id, a folder, or a GGUF (in an installed package)."""

import copy
import logging
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import lru_cache, partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate import companions, storage
from obliviate.data.chat import FIXED_DATE
from obliviate.data.text import TextEncoder
from obliviate.digests import DIGESTS, damage_of_folder
from obliviate.errors import UserError
from obliviate.fingerprint import fingerprint
from obliviate.gguf_reader import quick_gguf
from obliviate.layout import in_files
from obliviate.linear import adapted_weights, linear_weights
from obliviate.runs import DONE_FILE, RUN_FILE, content_hash, record_of, whole_folder
from obliviate.schema import LAYOUT, ModelSpec
from obliviate.source import PACKAGE_PREFIX, adapter_of, base_of, file_of
from obliviate.source import locate as locate
from obliviate.source import name_elsewhere as name_elsewhere
from obliviate.weights import INDEX, WEIGHTS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

READ = 16  # tokenizers and configs that are kept: a GGUF's take seconds to read


def portable(spec: ModelSpec) -> ModelSpec:
    """The same model for a process in another folder: paths are absolute, a template file is its text.

    A package is looked up, and a URL fetched, where the process runs.
    """
    elsewhere = spec.source.startswith(PACKAGE_PREFIX) or "://" in spec.source
    source = spec.source if elsewhere else locate(spec.source)
    lies_here = elsewhere or Path(source).exists()  # an adapter on the hub names no path
    found = base_of(spec) if lies_here or spec.base is not None else None
    base = None if found is None else portable(found).source
    template = spec.chat_template if (file := _template_file(spec)) is None else _text(file)
    return spec.model_copy(update={"source": source, "base": base, "chat_template": template})


def content_of(spec: ModelSpec, weights: str | None = None) -> str:
    """A hash that changes with the weights, and with the text of a template file.

    `weights`: the hash of those that a run is going to make (`made_by`).
    """
    weights, file = weights or _content_of_weights(spec), _template_file(spec)
    return weights if file is None else content_hash([weights, _text(file)])


def made_by(run: str, folder: str) -> str:
    """The hash of the weights in a folder of a run, by what determines them: known before they are there."""
    return content_hash([run, folder])


def _template_file(spec: ModelSpec) -> Path | None:
    """None where there is none: no template of its own, a name ("plain"), or Jinja text."""
    if spec.chat_template is None or "{" in spec.chat_template:
        return None
    path = storage.fetch(storage.local(spec.chat_template).expanduser())
    return path if path.is_file() else None


def _text(file: Path) -> str:
    return storage.read_text("model.chat_template", file)


def _content_of_weights(spec: ModelSpec) -> str:
    """Of what a run's record says that it was made of, of what the files hold, or of the hub id."""
    located = Path(locate(spec.source))
    if not located.exists() and spec.base is None:
        return content_hash([spec.source, spec.revision])
    base = base_of(spec)
    if not located.exists():
        return content_hash([spec.source, spec.revision, *([] if base is None else [_content_of_weights(base)])])
    record = [storage.fetch(located.parent / name) for name in (RUN_FILE, DONE_FILE)]
    if all(file.exists() for file in record):
        found: str | None = record_of(located.parent).get("content")
        return made_by(found or content_hash([file.read_text(encoding="utf-8") for file in record]), located.name)
    files = sorted(located.rglob("*")) if located.is_dir() else [located]
    files = [file for file in files if file.is_file() and file.name not in (storage.MARK, DIGESTS)]
    root = located if located.is_dir() else located.parent
    listed: list[Any] = [[file.relative_to(root).as_posix(), fingerprint(file)] for file in files]
    return content_hash([*listed, *([] if base is None else [_content_of_weights(base)])])


def require_weights(spec: ModelSpec) -> None:
    """Raises UserError for a hosted model: its `source` is only its tokenizer's."""
    if spec.endpoint is not None:
        raise UserError(
            f"model.endpoint: {spec.endpoint.model} is hosted, and this needs its weights: a hosted model can only be "
            "evaluated, asked and sampled; remove `endpoint` to take the weights of model.source"
        )


def load_tokenizer(spec: ModelSpec) -> "PreTrainedTokenizerBase":
    """One of the caller's own. Raises UserError where the source carries no tokenizer."""
    return copy.deepcopy(_tokenizer(_files_of(spec), _content_of_weights(spec)))


@lru_cache(maxsize=READ)
def _tokenizer(spec: ModelSpec, content: str) -> "PreTrainedTokenizerBase":
    """`content`: of the files, so that other ones are read anew."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    path, keywords = _from_pretrained_arguments(_of_tokenizer(spec))
    try:
        with quick_gguf(keywords):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **keywords)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        # As of a list where keys belong, or of a text where config.json has a number.
        local = Path(path).exists()
        fix = "save one beside the weights with tokenizer.save_pretrained(folder)" if local else "give a local folder"
        raise UserError(
            f"model.source: {spec.source}: no tokenizer could be loaded ({_first_line(error)}); {fix}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never used to tell padding from text: masks come from lengths
    return tokenizer


def _files_of(spec: ModelSpec) -> ModelSpec:
    """The spec without what says nothing of its files."""
    return ModelSpec(source=spec.source, base=spec.base, revision=spec.revision)


def _of_tokenizer(spec: ModelSpec) -> ModelSpec:
    """Whose tokenizer it is: an adapter's own where it brings one, else its base's."""
    base = base_of(spec)
    if base is None:
        return spec
    found = file_of(spec, "tokenizer_config.json")
    own = found is not None and found != file_of(base, "tokenizer_config.json")
    return spec if own else _of_tokenizer(base)


def text_encoder(spec: ModelSpec, tokenizer: "PreTrainedTokenizerBase") -> TextEncoder:
    return TextEncoder(
        tokenizer,
        chat_template=spec.chat_template,
        template_arguments=spec.template_arguments,
        template_date=spec.template_date,
        system_prompt=spec.system_prompt,
        guardrail=spec.guardrail,
        control_tokens=spec.control_tokens,
        max_length=spec.max_length,
    )


def encoder_of(spec: ModelSpec) -> TextEncoder:
    """What lays out and reads the model's texts: one for all callers, who change nothing of its tokenizer. Raises
    UserError where the source carries no tokenizer, and as TextEncoder does."""
    given = {"source", "base", "revision", "guardrail", "max_length", *LAYOUT}
    return _encoder(ModelSpec.model_validate(spec.model_dump(include=given)), content_of(spec))


@lru_cache(maxsize=READ)
def _encoder(spec: ModelSpec, content: str) -> TextEncoder:
    """`content`: as of `_tokenizer`, and of a template file."""
    return text_encoder(spec, _tokenizer(_files_of(spec), _content_of_weights(spec)))


def date_warnings(spec: ModelSpec, encoder: TextEncoder) -> list[str]:
    """Where the template asks for today's date and the config gives none."""
    if spec.template_date is not None or not encoder.asks_for_date:
        return []
    return [
        f"the chat template of {spec.source} asks for today's date and gets {FIXED_DATE}, so that a text is the same "
        "on any day; set model.template_date to another, the same wherever this model is trained, measured and served"
    ]


def stop_ids(spec: ModelSpec, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """What ends a generation: the template's end of turn, the tokenizer's end of text, and what the model's own
    generation defaults name as ends, where these are others."""
    own = companions.end_ids(partial(file_of, spec))
    ends = {text_encoder(spec, tokenizer).end_of_turn_id, tokenizer.eos_token_id, *own}
    return frozenset(token for token in ends if token is not None)


def load_to_read(spec: ModelSpec, dtype: str) -> "tuple[PreTrainedModel, TextEncoder]":
    """The model, on a GPU where this process sees one, and what lays out the texts that it reads."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_pretrained(spec, dtype=getattr(torch, dtype), device=device)
    return model, text_encoder(spec, tokenizer)


def load_pretrained(
    spec: ModelSpec, *, dtype: "torch.dtype", device: str = "cpu"
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model in `dtype` on `device`, in evaluation mode, an adapter merged into its base, and its tokenizer."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    require_weights(spec)
    tokenizer = load_tokenizer(spec)
    adapter, base = adapter_of(spec), base_of(spec)
    if adapter is not None and base is not None:
        whole, _ = load_pretrained(base, dtype=torch.float32)
        return adapter.merge(whole).to(device, dtype).eval(), tokenizer
    path, keywords = _from_pretrained_arguments(spec)
    transformers_logging.disable_progress_bar()
    try:
        with (
            quick_gguf(keywords),
            redirect_stderr(StringIO()),
        ):  # the GGUF reader draws a bar of its own that no setting turns off
            model: PreTrainedModel
            model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True, **keywords)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise UserError(f"model.source: {spec.source}: cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(found["missing_keys"]):  # transformers makes them up at random and only warns
        raise UserError(
            f"model.source: {spec.source}: its files lack {len(missing)} of the weights of a {type(model).__name__} "
            f"({missing[0]}, for example); give a complete causal language model"
        )
    # A dequantised GGUF still says that it is quantised, and save_pretrained would refuse to write it.
    if hasattr(model.config, "quantization_config") and str(path) != spec.source and "gguf_file" in keywords:
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False
    return model.to(device).eval(), tokenizer


@dataclass(frozen=True)
class ModelSize:
    parameters: int  # adapters included
    trained: int
    layers: int
    hidden_size: int
    vocabulary: int
    tied: bool  # the lm_head is the embedding
    idle: int = 0  # of experts that a token does not go through
    folded: int = 0  # of weights that adapters are added to in every forward pass, instead of working beside them

    @property
    def body(self) -> int:
        """All but embedding and lm_head."""
        return self.parameters - self.vocabulary * self.hidden_size * (1 if self.tied else 2)

    @property
    def active(self) -> int:
        """Parameters of the body that a token is multiplied with."""
        return self.body - self.idle


def skeleton(spec: ModelSpec) -> "PreTrainedModel":
    """The model without weights, from its config alone."""
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(spec)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except AssertionError as error:  # as of a padding token that has no embedding
        raise UserError(
            f"model.source: {spec.source}: its config.json makes no model ({_first_line(error)})"
        ) from error
    return model


def model_size(spec: ModelSpec) -> ModelSize:
    model = skeleton(spec)
    text = model.config.get_text_config()
    total = trained = sum(parameter.numel() for parameter in model.parameters())
    idle, folded = sum(weight.idle for weight in linear_weights(model).values()), 0
    if spec.lora is not None:
        adapted = adapted_weights(model).values()
        trained = sum(weight.adapter(spec.lora.rank) for weight in adapted)
        folded = sum(weight.numbers for weight in adapted if not weight.plain)
        total += trained
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return ModelSize(
        total, trained, text.num_hidden_layers, text.hidden_size, text.vocab_size, tied, idle=idle, folded=folded
    )


def require_same_vocabulary(model: ModelSpec, reference: ModelSpec) -> None:
    """Raises UserError where the two count other tokens: what one says of the other's token ids means nothing."""
    sizes = [load_config(spec).get_text_config().vocab_size for spec in (model, reference)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"reference.source: {reference.source}: has a vocabulary of {sizes[1]} tokens, and the model one of "
            f"{sizes[0]}; give a model with the same tokenizer"
        )


def load_config(spec: ModelSpec) -> Any:
    """The model's transformers config, one of the caller's own. Raises UserError where there is none."""
    return copy.deepcopy(_config(_files_of(spec), _content_of_weights(spec)))


@lru_cache(maxsize=READ)
def _config(spec: ModelSpec, content: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if (base := base_of(spec)) is not None:
        return load_config(base)
    path, keywords = _from_pretrained_arguments(spec)
    try:
        with quick_gguf(keywords):
            return AutoConfig.from_pretrained(path, **keywords)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise UserError(f"model.source: {spec.source}: no model config ({_first_line(error)})") from error


def architecture(spec: ModelSpec) -> dict[str, Any] | None:
    """The numbers of the model's config: an engine can take the weights of another with the same. None where there is
    no config."""
    try:
        config: dict[str, Any] = load_config(spec).to_dict()
    except UserError:
        return None
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}


def materialise(spec: ModelSpec, folder: Path) -> str:
    """What names a model that engines can open: folder, URL or hub id; a GGUF, or an adapter merged into its base, is
    written to `folder` first, once."""
    require_weights(spec)
    located = locate(spec.source)
    if located.endswith(".gguf") or adapter_of(spec) is not None:
        return storage.name(_written(spec, folder))
    return spec.source if "://" in spec.source else located


def weights_folder(spec: ModelSpec, folder: Path) -> Path:
    """A folder of the model's weights in safetensors on this node: its own, or, of a hub id, a GGUF or weights of
    another kind, one written to `folder` once.

    `folder` may be a URL's stand-in.
    """
    from filelock import FileLock

    require_weights(spec)
    located = Path(locate(spec.source))
    if any((located / name).exists() for name in (INDEX, WEIGHTS)):
        return located
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # trials that start together wait for one copy
        return _written(spec, folder)


def _written(spec: ModelSpec, folder: Path) -> Path:
    there = (storage.fetch(folder) / "config.json").exists()
    damage = damage_of_folder(folder) if there else {}
    for name, what in damage.items():
        log.warning("%s: %s: the model is written again", folder / name, what)
    if not there or damage:
        import torch

        model, _ = load_pretrained(spec, dtype=torch.float32)
        with whole_folder(folder) as temporary:
            save(model, spec, temporary, torch.float32)
    return folder


def save(model: "PreTrainedModel", spec: ModelSpec, folder: Path, dtype: "torch.dtype") -> None:
    """A model that was made from `spec`, its weights in `dtype`: a folder that transformers and vLLM open."""
    from obliviate.writer import Writer, written_as

    tensors = in_files(model, model.state_dict())
    writer = Writer(folder, {name: (each.shape, written_as(each, dtype)) for name, each in tensors.items()})
    for name, tensor in tensors.items():
        writer.write(name, tensor)
    writer.close()
    write_companions(model, spec, folder, dtype)


def write_tokenizer(spec: ModelSpec, folder: Path) -> None:
    of_tokenizer = _of_tokenizer(spec)
    companions.copy_tokenizer(load_tokenizer(of_tokenizer), partial(file_of, of_tokenizer), folder)


def write_companions(model: "PreTrainedModel", spec: ModelSpec, folder: Path, dtype: "torch.dtype") -> tuple[str, ...]:
    """Everything but the weights of a model that was made from `spec`; what had to be mended, in words."""
    notes = companions.write(model, folder, dtype, partial(file_of, spec))
    write_tokenizer(spec, folder)
    return tuple(f"model.source: {spec.source}: {note}" for note in notes)


def _from_pretrained_arguments(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    located = locate(spec.source)
    if located.endswith(".gguf"):
        return str(Path(located).parent), {"gguf_file": Path(located).name}
    return located, {} if spec.revision is None else {"revision": spec.revision}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
