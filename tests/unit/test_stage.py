"""A stage is made once, after what it needs, and again where that was made again."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from obliviate import storage
from obliviate.errors import UserError
from obliviate.models import content_of
from obliviate.runs import RUN_FILE, Run
from obliviate.schema import ModelSpec
from obliviate_recipes.catalogue import RECIPES
from obliviate_recipes.comparison import Compare, CompareRun
from obliviate_recipes.costs.hardware import GPUS, Cluster
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.stage import MODEL, Determined, ModelStage, Stage, all_of, perform
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.finetuning import Finetune
from obliviate_recipes.stages.measure import Figures, Measuring
from recipes import Told


@dataclass(frozen=True)
class Toy(Stage):
    kind: ClassVar = "toy"

    name: str
    root: str
    log: list[str] = field(default_factory=list)
    before: tuple[Stage, ...] = ()
    wrong: bool = False

    @property
    def label(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        return f"make {self.name}"

    @property
    def runs(self) -> str:
        return self.root

    @property
    def needs(self) -> tuple[Stage, ...]:
        return self.before

    def determined(self) -> Determined:
        return Determined({"name": self.name}, {str(i): each.run.content for i, each in enumerate(self.before)})

    def check(self) -> None:
        if self.wrong:
            raise UserError(f"{self.name}: is wrong; mend it")

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        self.log.append(self.name)
        return {"by": self.name}


@dataclass(frozen=True)
class ToyModel(Toy, ModelStage):
    @property
    def base(self) -> ModelSpec:
        return ModelSpec(source="some/model", max_length=64)

    def make(self, run: Run, events: Events) -> dict[str, Any]:
        self.folder.mkdir()
        return super().make(run, events)


def test_what_is_needed_comes_first_and_each_once(tmp_path: Path) -> None:
    log: list[str] = []
    a = Toy("a", str(tmp_path), log)
    b, c = (Toy(name, str(tmp_path), log, (a,)) for name in "bc")
    d = Toy("d", str(tmp_path), log, (b, c))
    assert [stage.label for stage in all_of([d, a])] == ["a", "b", "c", "d"]
    perform([d, a], QUIET)
    assert log == ["a", "b", "c", "d"]
    told = Told()
    perform([d, a], told)
    assert log == ["a", "b", "c", "d"]
    assert told.text.splitlines() == [
        f"make {each.label}: done already, in {storage.name(each.run.directory)}" for each in (d, a)
    ]


def test_of_what_is_done_nothing_is_needed(tmp_path: Path) -> None:
    """Records that were deleted are not asked for again while the figures are there."""
    log: list[str] = []
    a = Toy("a", str(tmp_path), log)
    b = Toy("b", str(tmp_path), log, (a,))
    perform([b], QUIET)
    storage.remove(a.run.directory)
    perform([b], QUIET)
    assert log == ["a", "b"]


def test_what_was_made_of_something_that_was_made_again_is_made_again(tmp_path: Path) -> None:
    """Its address is the same; what its record says of when it was begun is not."""
    log: list[str] = []
    a = Toy("a", str(tmp_path), log)
    b = Toy("b", str(tmp_path), log, (a,))
    perform([b], QUIET)
    record = a.run.directory / RUN_FILE
    record.write_text(json.dumps({**json.loads(record.read_text()), "created": "2020-01-01T00:00:00+00:00"}))
    assert not b.done
    perform([b], QUIET)
    assert log == ["a", "b", "b"]
    assert b.done


def test_a_run_whose_record_is_gone_is_made_again(tmp_path: Path) -> None:
    log: list[str] = []
    a = Toy("a", str(tmp_path), log)
    perform([a], QUIET)
    (a.run.directory / RUN_FILE).unlink()
    perform([a], QUIET)
    assert log == ["a", "a"]
    assert json.loads((a.run.directory / RUN_FILE).read_text())["label"] == "a"


def test_a_mistake_in_the_last_stage_is_told_before_the_first_is_made(tmp_path: Path) -> None:
    log: list[str] = []
    a = Toy("a", str(tmp_path), log)
    with pytest.raises(UserError, match="b: is wrong; mend it"):
        perform([Toy("b", str(tmp_path), log, (a,), wrong=True)], QUIET)
    assert log == []
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Asking(Toy):
    beside_engines: ClassVar = True

    def release(self) -> None:
        self.log.append(f"close {self.name}")


def test_engines_stay_open_until_a_stage_needs_what_they_hold(tmp_path: Path) -> None:
    log: list[str] = []
    a, b, c, d = (
        kind(name, str(tmp_path), log) for kind, name in ((Asking, "a"), (Asking, "b"), (Toy, "c"), (Asking, "d"))
    )
    perform([a, b, c, d], QUIET)
    assert log == ["a", "b", "close b", "close a", "c", "d", "close d"]


def test_and_are_closed_where_a_stage_fails(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Failing(Asking):
        def make(self, run: Run, events: Events) -> dict[str, Any]:
            raise UserError("full")

    log: list[str] = []
    with pytest.raises(UserError, match="full"):
        perform([Asking("a", str(tmp_path), log), Failing("b", str(tmp_path), log)], QUIET)
    assert log == ["a", "close b", "close a"]


def test_a_models_content_is_known_before_it_is_there(tmp_path: Path) -> None:
    maker = ToyModel("m", str(tmp_path))
    user = Toy("u", str(tmp_path), before=(maker,))
    planned = user.content_of(maker.model)
    assert user.at_hand(maker.model) == ModelSpec(source="some/model", max_length=64)
    perform([maker], QUIET)
    assert content_of(maker.model) == planned == user.content_of(maker.model)
    assert user.at_hand(maker.model).source == str(maker.run.directory / MODEL)


def test_a_kept_adapter_names_its_base_before_it_is_there(tiny: Path, tmp_path: Path) -> None:
    values = {
        "model": {"source": str(tiny), "lora": {"merge": False}}, "data": {"type": "fictitious"},
        "runs": str(tmp_path), "method": "ga",
    }  # fmt: skip
    config = RECIPES["unlearn"].load().takes.model_validate(values)
    stage = unlearning_stage(config, config.data.load())  # type: ignore[attr-defined,arg-type]
    assert (stage.model.base, stage.model.lora) == (str(tiny), None)


def comparison(tiny: Path, runs: Path) -> Compare:
    values: dict[str, Any] = {
        "model": {"source": str(tiny), "max_length": 64}, "finetune": {}, "runs": str(runs),
        "data": {"type": "fictitious", "people": 3, "forget_people": 1, "questions_per_person": 2},
        "methods": ["ga", "altpo+gd", {"type": "task_vector", "name": "tv"}, "whp"],
        "evaluation": {"encoder": None, "nli": None},
    }  # fmt: skip
    values["methods"][2] = {"method": "task_vector", "name": "tv"}
    return Compare(CompareRun.model_validate(values))


def test_what_a_comparison_consists_of(tiny: Path, tmp_path: Path) -> None:
    """The one list that is run, shown and estimated, known before anything is there."""
    recipe = comparison(tiny, tmp_path / "runs")
    kinds = [stage.kind for stage in all_of(recipe.stages)]
    models = ["unlearn", "records", "evaluate"]
    assert kinds == [
        *["finetune", "finetune", "records", "evaluate", "records", "evaluate"],
        *models, "alternatives", *models, "learn", *models, "finetune", *models,
    ]  # fmt: skip
    parts = {part.title: part.repeats for part in recipe.estimate(Cluster(GPUS["h100"]))}
    assert parts == {
        "fine-tune on all": 1, "fine-tune on retain": 1, "evaluate": 6, "unlearn with GA": 1, "sample other answers": 1,
        "unlearn with ALTPO+GD": 1, "unlearn with TASK_VECTOR": 1, "fine-tune on forget": 1, "unlearn with WHP": 1,
    }  # fmt: skip
    lines = list(recipe.outline())
    assert sum(line.startswith("evaluate ") for line in lines) == 6
    assert "sample 5 other answers to 2 questions" in lines
    assert not (tmp_path / "runs").exists()


def test_the_retain_model_is_needed_by_all_figures(tiny: Path, tmp_path: Path) -> None:
    figures = [stage for stage in comparison(tiny, tmp_path).stages if isinstance(stage, Figures)]
    retain, *others = figures
    assert retain.retain is None
    assert all(each.retain is retain for each in others)
    assert isinstance(retain.records.before[0], Finetune)
    again = Measuring(retain.records.shared.corpus, retain.records.shared.spec, None, str(tmp_path))
    assert again.figures("retain", retain.records.given, None, retain.records.before).run == retain.run
