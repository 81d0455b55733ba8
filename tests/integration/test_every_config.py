"""Configs of configs/ to their ends, by the commands that their comments name, on a tiny model and small data: all but
those of ELSEWHERE."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alone import alone
from hosting import hosting
from layouts import LAYOUTS, lines, questions, tofu_cut
from obliviate.config_file import load as load_config
from obliviate.config_file import read
from obliviate_cli.requests import asked, certificates, worked
from obliviate_recipes.catalogue import load
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.spec import RequestsRun
from once import Once
from recipes import Told
from tiny import tiny_bert, tiny_model_folder

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"^#   obliviate (request run|[\w-]+) (\S+\.yaml)", flags=re.MULTILINE)
CONFIGS = {
    str(path.relative_to(ROOT / "configs")): match[1]
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
    if (match := COMMAND.search(path.read_text(encoding="utf-8"))) is not None
}
QUICK = ("unlearn", "finetune", "evaluate", "erase")  # a second or two each
# Left to tests of their own: sweeps, which need Ray's processes, servers, which do not end, and what needs a model that
# knows or writes something.
ELSEWHERE = ("sweep", "sweep-attack", "serve", "request run", "make-questions", "probe-knowledge")
RECIPES = [
    pytest.param(name, marks=() if verb in QUICK else (pytest.mark.cluster, pytest.mark.timeout(900)))
    for name, verb in CONFIGS.items()
    if verb not in ELSEWHERE
]
# Below keys of these names, wherever they are.
SMALL: dict[str, dict[str, Any]] = {
    "optim": {"epochs": 1, "batch_size": 20, "micro_batch_size": 20, "activation_checkpointing": False},
    "reinforcement": {"epochs": 1},
    "tampering": {"steps": 2, "every": 1},
    "generation": {"max_new_tokens": 4, "max_length": None},
    "engine": {"type": "hf", "dtype": "float32"},
    "evaluation": {
        "engine.type": "hf", "engine.dtype": "float32", "generation.max_new_tokens": 4, "generation.max_length": None,
        "sampling.max_new_tokens": 2, "encoder": "bert", "nli": "nli", "fluency": None, "harness": None,
        "resamples": 100,
    },
    "cluster": {"workers": 1},
    "train_nli": {"encoder": "bert", "people": 2, "held_out_people": 1},
}  # fmt: skip
# Of attacks of these types.
WEAK: dict[str, dict[str, Any]] = {
    "relearn": {"steps": [1, 2], "batch_size": 10, "micro_batch_size": 10},
    "sample": {"samples": 2, "k": [1, 2]},
}
HOSTED = "evaluate/hosted.yaml"
LIMITS = {"eval_forget_limit": 4, "eval_retain_limit": 4, "eval_real_limit": 2}  # rows measured
CUT = {"data.source": "tofu_cut", "data.tasks": [1, 2]}
OWN: dict[str, dict[str, Any]] = {
    "continual/llama2_forget01.yaml": CUT,
    "continual/llama2_forget05.yaml": CUT,
    "continual/llama2_forget10.yaml": CUT,
    "continual/smollm2_forget01.yaml": {"data.tasks": [1, 2]},
    "methods/tampering.yaml": {"optim.batch_size": 10, "optim.epochs": 0.5},  # which leaves rows to attack with
    # A model that knows no row better than its reference filters all of them.
    "methods/forget_filter.yaml": {"forget_filter.reference.source": "other", "forget_filter.gap": 0},
}


@pytest.fixture
def folder(once: Once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the command runs in: the configs, and what they name."""
    made = once("every_config", fill)
    for each in made.iterdir():
        (tmp_path / each.name).symlink_to(each)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "platform").symlink_to(ROOT / "platform")  # with the demo's config
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(folder: Path) -> None:
    tiny_model_folder(
        folder / "tiny", hidden_size=16, layers=32, length=4096
    )  # as many as the largest model that a config names has
    tiny_model_folder(folder / "other", seed=3)
    tiny_bert(folder / "bert")
    tiny_bert(folder / "nli", ("neutral", "entailment", "contradiction"))
    for name, lay_out in LAYOUTS.items():
        lay_out(folder / name)
    tofu_cut(folder / "tofu_cut")
    for name in ("forget", "retain", "holdout"):
        lines(folder / f"{name}.jsonl", questions(name, 6))
    lines(folder / "examples.jsonl", [*questions("forget", 6), *questions("example", 10)])
    rows = [{"instruction": f"Add {i} and {i}.", "input": "", "output": f"{2 * i}."} for i in range(6)]
    (folder / "alpaca_gpt4.json").write_text(json.dumps(rows))


def small(values: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Overrides of a config's keys and values: the tiny models, the small data, and less of everything."""
    if isinstance(values, list):
        values = {str(place): value for place, value in enumerate(values)}
    if not isinstance(values, dict):
        return
    key = lambda name: ".".join((*at, name))  # noqa: E731
    here = at[-1] if at else ""
    yield from ((key(name), value) for name, value in SMALL.get(here, {}).items())
    if values.get("type") in LAYOUTS:
        yield key("source"), values["type"]
        limits = LIMITS if values["type"] in ("tofu", "tofu_tasks") else {"eval_limit": 4}
        limits = {} if values["type"] == "tofu_formats" else limits
        yield from ((key(name), limit) for name, limit in limits.items())
    elif "attacks" in at:
        yield from ((key(name), value) for name, value in WEAK.get(values.get("type", ""), {}).items())
    elif "source" in values and "data" not in at:
        yield from ((key("source"), "tiny"), (key("compute_dtype"), "float32"))
    for name, value in values.items():
        if name in ("encoder", "nli") and isinstance(value, str):
            yield key(name), "bert" if name == "encoder" else "nli"
        yield from small(value, (*at, name))


def overrides(name: str, runs: Path) -> list[str]:
    values = read(ROOT / "configs" / name)
    if CONFIGS[name] == "attack":
        values.setdefault("evaluation", {})  # some leave it out
    found = {**dict(small(values)), **OWN.get(name, {}), "runs": str(runs)}
    return [f"{key}={json.dumps(value)}" for key, value in found.items()]


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_runs_to_its_end(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting() as hosted:
        served = [f"models.hosted.endpoint.base_url={hosted.url}"] if name == HOSTED else []
        recipe = load(CONFIGS[name], Path("configs") / name, [*overrides(name, folder / "runs"), *served])
        alone(monkeypatch)
        recipe.perform(Told())
    assert all(stage.done for stage in recipe.stages)


@pytest.mark.cluster
def test_a_request_is_run_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the policy says of a model that knows nothing."""
    alone(monkeypatch)
    (name,) = (name for name, verb in CONFIGS.items() if verb == "request run")
    path, given = Path("configs") / name, overrides(name, folder / "runs")
    config = load_config(RequestsRun, path, given)
    certificates.make_key(Path(config.key))
    asked.add(path, given, "somebody", None, config.data.load().forget[0].entity, None)
    assert worked.run(path, given, False, False) == 0
    (request,) = Ledger(config.ledger).requests(config.alias)
    assert request.ended_s is not None
