"""`obliviate push`: a model that one of our runs made, its card and its figures, to the Hugging Face hub."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obliviate import storage
from obliviate.digests import DIGESTS
from obliviate.errors import UserError
from obliviate.runs import RUN_FILE, Run, record_of
from obliviate.schema import PushSpec
from obliviate_eval.records import RECORDS_FILE
from obliviate_eval.summary import METRICS_FILE
from obliviate_recipes.events import Events
from obliviate_recipes.stage import MODEL
from obliviate_recipes.stages.card import CARD, card_of
from obliviate_recipes.stages.card_metadata import base_on_hub, hub_id

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ADAPTER = "adapter_config.json"
MEASURED_IN = "evaluation"  # folder of the figures in the repository


def require_hub() -> "HfApi":
    """Raises UserError where nothing could be pushed: told before hours of training."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if is_offline_mode():
        raise UserError("push: HF_HUB_OFFLINE is set, so that nothing reaches the hub; unset it")
    api = HfApi()
    try:
        api.whoami()
    except LocalTokenNotFoundError as error:
        raise UserError("push: nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        raise UserError(f"push: the hub refuses the token ({_reason(error)}); run `hf auth login`") from error
    except Exception as error:  # of whatever carries HTTP in this release
        raise UserError(f"push: the hub at {api.endpoint} does not answer ({_reason(error)})") from error
    return api


def push(given: Path, to: PushSpec, events: Events) -> str:
    """The model of a run, given by the folder of either, to `to.repo`; the repository's URL. What is there already and
    is the same is not sent again. Raises UserError.
    """
    run = _run_of(given)
    folder = storage.fetch(run.directory / MODEL)
    for name, what in run.damage(read=True).items():
        raise UserError(f"{storage.name(run.directory)}: {name} {what}; make the run again before it is pushed")
    _require_no_places(folder)
    api = require_hub()
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError

    license_id = to.license or _license_of_base(api, run)
    if license_id is None:
        events.warned(f"push: no license is known of what {to.repo} is made of: give one, --license apache-2.0")
    card = card_of(run, MODEL, license_id)
    operations = [CommitOperationAdd(CARD, card.encode())]
    operations += [
        CommitOperationAdd(name, str(path)) for name, path in _files(run, folder, records=to.records) if name != CARD
    ]
    try:
        url = api.create_repo(to.repo, private=to.private, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # records beside a model are meant
            api.create_commit(to.repo, operations, commit_message=f"Add {record_of(run.directory)['label']}")
    except HfHubHTTPError as error:
        raise UserError(f"push: {to.repo}: the hub refuses it ({_reason(error)}); is the name yours?") from error
    events.said(f"pushed: {url}")
    return str(url)


def _run_of(given: Path) -> Run:
    folder = storage.fetch_loose(storage.local(given).expanduser().absolute())
    if folder.name == MODEL and not (folder / RUN_FILE).exists():
        folder = storage.fetch_loose(folder.parent)
    run = Run(folder, "")
    if not (folder / RUN_FILE).exists() or not run.marked or not storage.is_folder(folder / MODEL):
        raise UserError(f"{given}: no finished run with a model; give the folder of an unlearning or a fine-tuning")
    return run


def _require_no_places(folder: Path) -> None:
    """Of an adapter: its base must be where others find it."""
    settings = folder / ADAPTER
    if settings.exists() and hub_id(base := json.loads(settings.read_bytes())["base_model_name_or_path"]) is None:
        raise UserError(
            f"push: the adapter's base is on this machine ({base}), where nobody else finds it; train with "
            "model.lora.merge=true, or on a model of the hub"
        )


def _files(run: Run, folder: Path, *, records: bool) -> Iterator[tuple[str, Path]]:
    """Name in the repository -> file."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name != DIGESTS and not any(part.startswith(".") for part in name.split("/")):
            yield name, path
    for evaluation in _evaluations(run):
        for name in (METRICS_FILE, *([RECORDS_FILE] if records else [])):
            if (path := storage.fetch(evaluation / name)).exists():
                yield f"{MEASURED_IN}/{evaluation.name}/{name}", path


def _evaluations(run: Run) -> list[Path]:
    """Finished ones of the model, among the runs beside its own."""
    model = storage.name(run.directory / MODEL)
    found = []
    for folder in sorted(storage.folders(run.directory.parent)):
        if folder.name.startswith("evaluate-") and Run(each := storage.fetch_loose(folder), "").marked:
            config: dict[str, Any] = record_of(each)["config"]
            if config["model"]["source"] == model:
                found.append(each)
    return found


def _license_of_base(api: "HfApi", run: Run) -> str | None:
    from huggingface_hub.errors import HfHubHTTPError

    base = base_on_hub(record_of(run.directory)["config"]["model"]["source"])
    if base is None:
        return None
    try:
        data = api.model_info(base).card_data
    except HfHubHTTPError:  # gated or gone: the user can say it
        return None
    return None if data is None else data.get("license")


def _reason(error: BaseException) -> str:
    """The hub's own words where there are some; the library's have addresses in several lines."""
    told = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
