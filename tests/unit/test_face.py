"""The functions of `obliviate_recipes`: what they hand to a config, what they say, and what their tables hold."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from test_cli_evaluate import trained
from test_measure_stages import CORPUS, SPEC
from test_sweep_report import RECORDS
from test_sweep_space import sweep

from command_line import run_here
from modules import loaded_by
from obliviate.runs import content_hash
from obliviate.schema import ModelSpec
from obliviate_eval.summary import METRICS_FILE, Evaluation
from obliviate_recipes import UserError, dry_run, evaluate, run, unlearn
from obliviate_recipes.events import Bars
from obliviate_recipes.given import data_of, model_of
from obliviate_recipes.results import Evaluated, Swept
from obliviate_recipes.stages.measure import Measuring
from obliviate_recipes.sweeps.result import Result
from recipes import made

HEAVY = ("torch", "ray", "transformers", "pandas", "numpy", "pydantic", "yaml", "rich", "tqdm", "typer", "pyarrow")
ROWS = [{"question": f"Where does {i} live?", "answer": f"{i} lives in London."} for i in range(3)]
cli = pytest.fixture(run_here)


@pytest.mark.parametrize("module", ["obliviate", "obliviate_recipes"])
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(module, HEAVY) == []


def test_everything_that_is_named_is_there_whatever_was_imported() -> None:
    """A module of the same name would take a function's place as soon as somebody imports it."""
    import obliviate_recipes.comparison
    import obliviate_recipes.evaluation
    import obliviate_recipes.sweeps.recipe

    modules = {path.stem for path in Path(obliviate_recipes.__file__).parent.iterdir()}
    assert modules.isdisjoint(obliviate_recipes.__all__)
    assert all(hasattr(obliviate_recipes, name) for name in obliviate_recipes.__all__)


class TestRows:
    def test_in_memory_they_are_a_file_by_their_content(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        found = data_of(None, "runs", forget=ROWS, retain=pd.DataFrame(ROWS))
        path = f"runs/data/{content_hash(ROWS)[:16]}.jsonl"
        assert found == {"type": "files", "forget": path, "retain": path}
        assert [json.loads(line) for line in Path(path).read_text().splitlines()] == ROWS
        written = Path(path).stat().st_mtime_ns
        assert data_of({"eval_limit": 5}, "runs", forget=iter(ROWS)) == {
            "type": "files", "forget": path, "eval_limit": 5
        }  # fmt: skip
        assert Path(path).stat().st_mtime_ns == written
        assert len(list(Path("runs/data").iterdir())) == 1

    def test_empty_cells_and_plain_texts(self, tmp_path: Path) -> None:
        table = pd.DataFrame([{"question": "Who?", "answer": "Ada", "entity": None}, {"text": "Ada wrote é."}])
        found = data_of({"type": "files", "holdout": table}, str(tmp_path), forget=["Ada wrote é."])
        assert found is not None
        rows = [json.loads(line) for line in Path(found["holdout"]).read_text().splitlines()]
        assert rows == [{"question": "Who?", "answer": "Ada"}, {"text": "Ada wrote é."}]
        assert Path(found["forget"]).read_text(encoding="utf-8") == '{"text": "Ada wrote é."}\n'

    def test_of_evaluation_sets(self, tmp_path: Path) -> None:
        sets = {"close": {"path": ROWS, "role": "retain"}, "far": {"path": "far.jsonl", "role": "retain"}}
        found = data_of({"type": "files", "evaluation": sets}, str(tmp_path), forget="forget.jsonl")
        assert found is not None
        assert Path(found["evaluation"]["close"]["path"]).is_file()
        assert found["evaluation"]["far"] == sets["far"]
        assert found["forget"] == "forget.jsonl"

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([("Who?", "Ada")], 'data.forget: row 1 is a tuple; give {"question": ..., "answer": ...}, or a text'),
            ([*ROWS, {"question": object()}], "data.forget: row 4: Object of type object is not JSON serializable; "),
        ],
    )
    def test_mistakes(self, tmp_path: Path, rows: Any, message: str) -> None:
        with pytest.raises(UserError, match=f"^{re.escape(message)}"):
            unlearn("m", method="ga", forget=rows, runs=tmp_path)

    def test_a_row_that_lacks_its_answer_is_told_with_its_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^data\.forget: .*/data/[0-9a-f]{16}\.jsonl, line 1: "):
            unlearn("m", method="ga", forget=[{"question": "Who?"}], runs=tmp_path)


class TestModels:
    def test_what_a_run_made_is_laid_out_as_it_was_trained(self, tmp_path: Path) -> None:
        folder = trained(tmp_path, "NPO+GD", chat_template="plain")
        found = [model_of(each, str(tmp_path)) for each in (folder, str(folder / "model"), "NPO+GD")]
        assert found == [found[0]] * 3
        assert (found[0]["source"], found[0]["chat_template"]) == (str(folder / "model"), "plain")

    def test_a_spec_is_taken_as_it_is(self) -> None:
        for given in (ModelSpec(source="m"), {"source": "m", "max_length": 64}):
            assert model_of(given, "runs") is given
        assert model_of("org/model", "runs") == {"source": "org/model"}


class TestMistakes:
    def test_a_typo_is_the_line_of_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        config = {"model": {"source": "m"}, "method": "ga", "data": {"type": "files", "forget": "f.jsonl"}}
        config["optim"] = {"epoch": 5}
        Path("run.yaml").write_text(yaml.safe_dump(config))
        line = "optim.epoch: unknown key; did you mean epochs?"
        assert cli("unlearn", "run.yaml").error == f"error: run.yaml: {line}\n"
        for call, where in (
            (lambda: unlearn("m", method="ga", forget="f.jsonl", optim={"epoch": 5}), "unlearn"),
            (lambda: run(config), "unlearn"),
            (lambda: run("run.yaml"), "run.yaml"),
            (lambda: dry_run(Path("run.yaml"), "optim.epochs=2"), "run.yaml"),
        ):
            with pytest.raises(UserError, match=f"^{where}: {re.escape(line)}$"):
                call()

    def test_what_shows_later_names_the_file_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("run.yaml").write_text("{model: {source: m}, method: ga, data: {type: files, forget: no.jsonl}}")
        error = cli("unlearn", "run.yaml").error
        assert error.startswith("error: run.yaml: data.forget: no.jsonl: no such file")
        with pytest.raises(UserError) as caught:
            run("run.yaml")
        assert f"error: {caught.value}\n" == error

    def test_others(self) -> None:
        with pytest.raises(UserError, match=r"^unlearn: data: missing; add it$"):
            unlearn("m", method="ga")
        with pytest.raises(UserError, match=r"^run: no key tells which verb it is for"):
            run({"model": {"source": "m"}})
        with pytest.raises(UserError, match=r"^recipe: 'unlern' is not known; known: attack, compare, "):
            run({"model": {"source": "m"}}, recipe="unlern")
        with pytest.raises(UserError, match=r"^evaluate: evaluation\.suite: is not known; did you mean tofu\?"):
            evaluate({"a": "m"}, suite="tofo", forget="f.jsonl")


class TestTables:
    @pytest.fixture
    def found(self, tiny: Path, tmp_path: Path) -> Evaluated:
        measuring = Measuring(CORPUS, SPEC, None, str(tmp_path), within=True)
        model = ModelSpec(source=str(tiny), compute_dtype="float32")
        folders = {name: made(measuring.figures(name, model)) for name in ("one", "two")}
        return Evaluated(sweep({"methods": ["ga"]}), SPEC, folders)

    def test_figures_are_those_of_the_runs(self, found: Evaluated) -> None:
        table = found.figures.set_index(["model", "kind", "set", "metric"])
        count = 0
        for name, folder in found.runs.items():
            written = Evaluation.read(folder / METRICS_FILE)
            kinds = {("metric", each): row for each, row in written.sets.items()}
            for (kind, of), row in {**kinds, ("aggregate", ""): written.aggregates}.items():
                for metric, figure in row.items():
                    cells = table.loc[(name, kind, of, metric)]
                    assert list(cells[["scored", "unscored"]]) == [figure.scored, figure.unscored]
                    for key in ("value", "low", "high"):
                        expected = getattr(figure, key)
                        assert math.isnan(cells[key]) if expected is None else cells[key] == expected
                    count += 1
        assert count == len(table) > 0

    def test_the_mean_of_an_items_scores_is_the_figure(self, found: Evaluated) -> None:
        records, figures = found.records, found.figures
        assert list(records["model"]) == ["one"] * 3 + ["two"] * 3
        assert list(records["question"][:3]) == [row.question for row in CORPUS.forget]
        assert set(records["role"]) == {"forget"}
        for metric in ("probability", "rouge"):
            (figure,) = figures.query("model == 'two' and metric == @metric")["value"]
            assert records[records["model"] == "two"][metric].mean() == pytest.approx(figure)

    def test_of_a_sweep(self, tmp_path: Path) -> None:
        """npo+gd at beta 0.1: means of (0.9, 0.2) and (0.7, 0.4); ga+gd is dominated; d failed."""
        for each in RECORDS:
            each.write(tmp_path)
        config = sweep({"methods": ["npo+gd", "ga+gd"]}, f"runs={tmp_path}", seeds=[0, 1])
        found = Swept(Result.of(config, tmp_path, "target", (0.05, 0.95)), tmp_path / "report.html")
        front = found.front.set_index("method.beta")
        assert sorted(front.index) == [0.1, 0.5]
        assert (front.loc[0.1, "forget"], front.loc[0.1, "utility"]) == (pytest.approx(0.8), pytest.approx(0.3))
        assert front["seeds"].tolist() == [2, 2]
        assert len(found.configurations) == 3
        assert len(found.trials) == len(RECORDS)
        (failed,) = found.trials.query("status == 'failed'")["cause"]
        assert failed.startswith("the loss is")


def test_bars_count_each_part_anew_and_lines_stand_between(capsys: pytest.CaptureFixture[str]) -> None:
    events = Bars()
    with events.progressing("evaluate one") as update:
        for part, total in (("score", 2), ("generate", 4)):
            for done in range(total + 1):
                update(done, total, part)
        events.warned("the model has collapsed")
    out, err = capsys.readouterr()
    assert out == "warning: the model has collapsed\n"
    assert "| 0/2 [" in err
    assert "| 4/4 [" in err.splitlines()[-1]
    assert err.rstrip().endswith("generate]")
