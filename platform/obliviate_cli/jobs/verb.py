"""Which verb a config is for. Its keys say so: a job is submitted by its config alone."""

from pathlib import Path

from obliviate.config import FinetuneRun, RunSpec, UnlearnRun
from obliviate.config_file import read
from obliviate.errors import UserError
from obliviate_cli.compare import CompareRun
from obliviate_cli.continual import ContinualRun
from obliviate_cli.entity import EntityRun
from obliviate_cli.erase import EraseRun
from obliviate_cli.fuse import FuseRun
from obliviate_cli.measure import EvaluateRun
from obliviate_cli.probe import ProbeRun
from obliviate_cli.snap.spec import SnapRun
from obliviate_cli.sweep.spec import SweepRun

KINDS: dict[str, type[RunSpec]] = {
    "sweep": SweepRun,
    "compare": CompareRun,
    "continual": ContinualRun,
    "evaluate": EvaluateRun,
    "make-questions": EntityRun,
    "snap": SnapRun,
    "fuse": FuseRun,
    "erase": EraseRun,
    "unlearn": UnlearnRun,
    "probe-knowledge": ProbeRun,
    "finetune": FinetuneRun,
}
# Key -> the verb that alone has it; of several that a config has, the first decides.
TELLING = {
    "space": "sweep",
    "methods": "compare",
    "models": "evaluate",
    "writer": "make-questions",
    "entity": "snap",
    "requests": "fuse",
    "adapters": "fuse",
    "examples": "erase",
    "method": "unlearn",
    "answers": "probe-knowledge",
    "nli": "probe-knowledge",
    "train_on": "finetune",
    "optim": "finetune",
}


def verb_of(path: Path) -> str:
    """Raises UserError where no key tells."""
    values = read(path)
    found = next((verb for key, verb in TELLING.items() if key in values), None)
    if found is None:
        raise UserError(f"{path}: no key tells which verb it is for; say --verb, one of {', '.join(KINDS)}")
    data = values.get("data")
    several = isinstance(data, dict) and str(data.get("type")).endswith("_tasks")
    return "continual" if found == "compare" and several else found
