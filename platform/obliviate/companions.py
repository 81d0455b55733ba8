"""What lies beside a model's weights: its config, generation defaults, tokenizer and chat template.

An export has them from its source as they are there. Only what the weights' dtype changes, and what transformers
refuses to save, is another: `repaired` says what.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from obliviate.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG, GENERATION = "config.json", "generation_config.json"
TEMPLATES = "additional_chat_templates"  # a folder
OF_TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "tokenizer.model", "vocab.json", "merges.txt", "processor_config.json",
    "preprocessor_config.json",
)  # fmt: skip
SWITCHES = ("do_sample", "num_beams")  # what other generation parameters depend on, and stays as it is
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_NAMED = re.compile(r"`(\w+)`")


Files = Callable[[str], Path | None]  # a file by its name, on this node; None where the model has none of that name


class Repaired(NamedTuple):
    """JSON of both configs (None: there is no such file) as they can be saved, and what was mended, in words."""

    config: dict[str, Any]
    generation: dict[str, Any] | None
    notes: tuple[str, ...]


def read(file: Path | None) -> dict[str, Any] | None:
    """A JSON file of a model's; None where there is none. Raises UserError for what is no JSON object."""
    if file is None:
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.source: {file}: is no JSON ({error}); mend or remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"model.source: {file}: holds no JSON object; mend or remove it")
    return values


def end_ids(files: Files) -> frozenset[int]:
    """Tokens that end a text by the generation defaults; where there are none, by the model's config."""
    values = read(files(GENERATION))
    if values is None:
        config = read(files(CONFIG)) or {}
        values = config if "eos_token_id" in config else config.get("text_config", {})
    ends = values.get("eos_token_id")
    return frozenset(end for end in (ends if isinstance(ends, list) else [ends]) if end is not None)


def repaired(config: Mapping[str, Any], generation: Mapping[str, Any] | None) -> Repaired:
    """Without what transformers would refuse to save.

    Generation parameters leave the model's config for the generation config, which has the last word on them; there,
    those leave that have no effect beside the others, so that what the file asks for stays as it was. Raises UserError
    for what cannot be mended so.
    """
    notes = []
    values, defaults = dict(config), None if generation is None else dict(generation)
    set_here = [name for name in _parameters_of_generation() if values.get(name) is not None]
    moved = [name for name in set_here if not _belongs(values, name)]
    if moved:
        if defaults is None:  # transformers reads these from the config only where there is no such file
            defaults = {name: values[name] for name in ENDS if name in values}
        defaults = {**{name: values[name] for name in moved}, **defaults}
        values = {name: value for name, value in values.items() if name not in moved}
        notes.append(f"{CONFIG}: {', '.join(moved)} moved to {GENERATION} in the export")
    dropped: list[str] = []
    while defaults is not None and (refused := _refused(defaults)):
        defaults = {name: value for name, value in defaults.items() if name not in refused}
        dropped += refused
    if dropped:
        notes.append(
            f"{GENERATION}: {', '.join(dropped)} left out of the export, of no effect and refused by transformers"
        )
    return Repaired(values, defaults, tuple(notes))


def _refused(generation: Mapping[str, Any]) -> list[str]:
    """Names of what transformers would not save. Raises UserError where it says none."""
    from transformers import GenerationConfig
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it warns as well
    try:
        GenerationConfig.from_dict(dict(generation)).validate(strict=True)
    except (ValueError, TypeError) as error:
        named = [name for name in _NAMED.findall(str(error)) if name in generation and name not in SWITCHES]
        if not named:
            cause = " ".join(str(error).split())[:200]
            raise UserError(
                f"model.source: {GENERATION}: transformers refuses to save it ({cause}); mend or remove it"
            ) from error
        return list(dict.fromkeys(named))
    finally:
        transformers_logging.set_verbosity(verbosity)
    return []


def with_dtype(config: Mapping[str, Any], dtype: "torch.dtype") -> dict[str, Any]:
    """The config of the same model with its weights in another dtype, its parts' included."""
    name = str(dtype).removeprefix("torch.")

    def changed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: name if key in ("dtype", "torch_dtype") else changed(value) if isinstance(value, dict) else value
            for key, value in values.items()
        }

    found = changed(config)
    return found if "dtype" in found or "torch_dtype" in found else {**found, "dtype": name}


def write(model: "PreTrainedModel", folder: Path, dtype: "torch.dtype", files: Files) -> tuple[str, ...]:
    """Config, generation defaults and code into `folder`; what was mended, in words. No weights are read.

    `files`: of the model's source.
    """
    given = read(files(CONFIG))
    generation = read(files(GENERATION))
    # Of a model that is a part of what the file describes, such as the text side of a multimodal one, it says too much.
    if given is None or given.get("model_type") != model.config.model_type or _class(given) != type(model).__name__:
        generation = _own(model.generation_config) if given is None and generation is None else generation
        given = {**_own(model.config), "architectures": [type(model).__name__]}
    given.pop("quantization_config", None)  # the file's weights may be quantised: these are plain numbers
    if given.get("tie_word_embeddings") and not model.config.get_text_config().tie_word_embeddings:
        given["tie_word_embeddings"] = False  # an adapter changed one of two ends that shared their weight
    found = repaired(given, generation)
    _dump(with_dtype(found.config, dtype), folder / CONFIG)
    if found.generation is not None:
        _dump(found.generation, folder / GENERATION)
    for place in given.get("auto_map", {}).values():  # code that the model brings
        if isinstance(place, str) and (code := files(f"{place.partition('.')[0]}.py")) is not None:
            shutil.copyfile(code, folder / code.name)
    return found.notes


def copy_tokenizer(tokenizer: "PreTrainedTokenizerBase", files: Files, folder: Path) -> None:
    """The files that it was read from; of a GGUF, those that it would be saved as."""
    names = {*OF_TOKENIZERS, *tokenizer.vocab_files_names.values()}
    copied = [shutil.copyfile(file, folder / name) for name in sorted(names) if (file := files(name)) is not None]
    if not copied:
        tokenizer.save_pretrained(folder)
    elif (settings := files("tokenizer_config.json")) is not None and (settings.parent / TEMPLATES).is_dir():
        shutil.copytree(settings.parent / TEMPLATES, folder / TEMPLATES)


def _own(config: Any) -> dict[str, Any]:
    """A transformers config as its file would be, without how this process attends."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return {name: value for name, value in values.items() if "attn_implementation" not in name}


def _class(config: Mapping[str, Any]) -> str | None:
    architectures: list[str] = config.get("architectures") or []
    return next(iter(architectures), None)


def _parameters_of_generation() -> list[str]:
    from transformers import GenerationConfig

    return [name for name in GenerationConfig._get_default_generation_params() if name != "use_cache"]


def _belongs(config: Mapping[str, Any], name: str) -> bool:
    """Whether a model's own config has such a field, as some architectures do."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    return kind not in CONFIG_MAPPING or name in CONFIG_MAPPING[kind]().to_dict()


def _dump(values: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
