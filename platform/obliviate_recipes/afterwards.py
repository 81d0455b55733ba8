"""What to do with a model that was made: the command that measures it."""

import shlex

import yaml

from obliviate.data import DataSpec

# Suite -> the type of data that it was made for; any other suite is asked of TOFU, or of a file with questions.
DATA_OF = {
    "closer_look_real_world": "real_world",
    "real_world": "real_world",
    "muse": "muse",
    "wmdp": "wmdp",
    "wmdp_robust": "wmdp_robust",
    "wmdp_cloze": "wmdp_cloze",
    "rwku": "rwku",
    "knowundo": "knowundo",
    "custom": "files",
    "lume": "lume",
    "relu": "relu",
    "blur": "blur",
    "pistol": "pistol",
}


def command(model: str, data: DataSpec, runs: str) -> str:
    """What to type to measure a model on the data, by the suite made for them or else one that needs no judge."""
    suite = next((suite for suite, kind in DATA_OF.items() if kind == data.type and kind != "files"), "tofu")
    given = {"type": data.type, **data.model_dump(mode="json", exclude_defaults=True)}
    line = yaml.safe_dump(given, default_flow_style=True, sort_keys=False, width=10**6).strip()
    return shlex.join(["obliviate", "evaluate", model, "--suite", suite, f"data={line}", f"runs={runs}"])
