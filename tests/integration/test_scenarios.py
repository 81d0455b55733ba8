"""Requests and a continual run with the real stages, on a model that knows nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from obliviate.aliases import read_aliases
from obliviate.config import build
from obliviate.data.rows import Row, write_rows
from obliviate_recipes.continual import Continual, ContinualRun
from obliviate_recipes.events import QUIET
from obliviate_recipes.requests.certificate import make_key, verify
from obliviate_recipes.requests.knowledge import Knowledge, text_hash
from obliviate_recipes.requests.ledger import Ledger
from obliviate_recipes.requests.runner import Runner
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.requests.work import Recipes
from recipes import Told
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

Settings = Callable[..., dict[str, Any]]


def rows(name: str, count: int) -> list[Row]:
    return [Row(f"Where does {name} {i} live?", f"{name} {i} lives in London.") for i in range(count)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    model = tiny_model_folder(tmp_path / "tiny")

    def settings(**own: Any) -> dict[str, Any]:
        return {
            "model": {"source": str(model), "compute_dtype": "float32", "max_length": 64},
            "optim": {"learning_rate": 1e-2, "epochs": 2, "batch_size": 4, "micro_batch_size": 4},
            "cluster": {"cpus_per_worker": 0.5},
            "evaluation": {
                "engine": {"type": "hf", "dtype": "float32", "cpus_per_replica": 0.5},
                "generation": {"max_new_tokens": 4},
                "encoder": None,
                "nli": None,
            },
            "runs": str(tmp_path / "runs"),
            **own,
        }

    return settings


@pytest.mark.cluster
def test_a_request_from_its_texts_to_its_certificate(settings: Settings, tmp_path: Path) -> None:
    for name, count in (("ann", 4), ("bob", 4)):
        write_rows(tmp_path / f"{name}.jsonl", rows(name, count))
    make_key(tmp_path / "key.pem")
    values = settings(
        data={"type": "files", "forget": str(tmp_path / "ann.jsonl"), "retain": str(tmp_path / "bob.jsonl")},
        method="ga+gd",
        ledger=str(tmp_path / "ledger.sqlite"),
        aliases=str(tmp_path / "aliases.json"),
        key=str(tmp_path / "key.pem"),
        policy={
            "forget": {"probability": {"max": 1, "allow": True}},
            "utility": {"retain.rouge": {"min": 0, "allow": True}},
        },
    )
    config = build(RequestsRun, values, where="test")
    ledger, knowledge = Ledger(config.ledger, create=True), Knowledge.of(config.data.load())
    ledger.add("production", config.model.source, "ann", [text_hash(row) for row in rows("ann", 2)])
    assert Runner(config, ledger, knowledge, Recipes(config, QUIET), QUIET).run() == 1
    request = ledger.request("production", 1)
    assert request.state == "fulfilled"
    served = read_aliases(tmp_path / "aliases.json")["production"]
    assert (Path(served) / "model.safetensors").exists()
    statement, _ = verify(Path(str(request.certificate)))
    assert statement["model"] == {"alias": "production", "before": config.model.source, "after": served}
    before, after = (
        statement["measurements"][when]["forgotten"]["probability"]["value"] for when in ("before", "after")
    )
    assert after < before  # gradient ascent made its answers less likely
    assert Runner(config, ledger, knowledge, Recipes(config, QUIET), QUIET).run() == 0


@pytest.mark.cluster
def test_two_tasks_one_after_the_other(settings: Settings, tmp_path: Path) -> None:
    files = {}
    for name in ("ann", "bob", "cy"):
        files[name] = str(tmp_path / f"{name}.jsonl")
        write_rows(tmp_path / f"{name}.jsonl", rows(name, 3))
    values = settings(
        data={"type": "files_tasks", "forget": [files["ann"], files["bob"]], "retain": files["cy"]},
        methods=[{"name": "fixed", "method": "npo+gd", "reference_step": "first"}],
    )
    report = Continual(build(ContinualRun, values, where="test")).perform(QUIET)
    assert "continual-leakage" in report.read_text()
    (matrix,) = json.loads((report.parent / "matrix.json").read_text())
    assert matrix["tasks"] == ["task_1", "task_2"]
    assert [len(row) for row in matrix["efficacy"]] == [2, 2, 2]
    configs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("unlearn-*/run.json")]
    first, second = sorted(configs, key=lambda run: run["label"])
    assert first["config"]["reference"] is None
    assert second["config"]["reference"]["source"] == first["config"]["model"]["source"]  # of step 1, before it
    assert Path(second["config"]["model"]["source"]).parent.name.startswith("unlearn-fixed-step-1")
    # All of it is found again.
    again = Told()
    Continual(build(ContinualRun, values, where="test")).perform(again)
    assert again.text.count("done already") == 5
