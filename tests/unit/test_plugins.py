"""Others' methods, metrics and data: by place and by entry point, written so that they are found again; mistakes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import others
from command_line import Cli, run_here
from measured import record
from obliviate import hf, plugins
from obliviate.config import UnlearnRun, build
from obliviate.config_file import load
from obliviate.data import Role
from obliviate.errors import UserError
from obliviate.guardrail import hides
from obliviate.methods import GD, NPO
from obliviate.schema import ModelSpec
from obliviate_cli.jobs.submit import runtime_env
from obliviate_eval.content import content_of_suite
from obliviate_eval.report.build import _title
from obliviate_eval.report.model import ModelReport
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import summarise
from obliviate_recipes.attacking import AttackRun, Attacks
from obliviate_recipes.attacks.outcome import Robust
from obliviate_recipes.evaluation import EvaluateRun
from obliviate_recipes.rescore import Rescoring
from obliviate_recipes.stages.measure import Measuring
from obliviate_recipes.sweeps.space import parameters
from obliviate_recipes.train import UnlearnRecipe

BASE = {"model": {"source": "m"}, "data": {"type": "fictitious"}}
CAPPED = "others_package.methods.Capped"
SECOND = """
from obliviate.methods import GD, Pass, Positions
from obliviate.scoring import Generic


class Mine(GD):
    type: str = "mine"

    @property
    def needs(self):
        return {Pass.RETAIN: {Generic(2.0): Positions.ANSWER}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory; what is imported from it, and let in, is gone afterwards."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_modules", {})
    monkeypatch.setattr(plugins, "_used", {})
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith(("others_package", "mine")):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the package."""
    folder = others.install(tmp_path / "site")
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return run_here(monkeypatch, capsys)


def unlearning(*overrides: str, **values: Any) -> UnlearnRun:
    return build(UnlearnRun, {**BASE, **values}, overrides, where="run.yaml")


def mistake(**values: Any) -> str:
    with pytest.raises(UserError) as caught:
        unlearning(**values)
    return str(caught.value)


def mine(here: Path, code: str) -> None:
    (here / "mine.py").write_text(code)


class TestMethods:
    def test_names_of_installed_packages_compose_with_ours(self, site: Path) -> None:
        run = unlearning(method="capped+keep+gd")
        assert run.label == "CAPPED+KEEP+GD"
        assert [type(term).__module__ for term in run.terms] == [
            "others_package.methods", "others_package.methods", "obliviate.methods.gd",
        ]  # fmt: skip

    def test_a_place(self, site: Path) -> None:
        run = unlearning(
            method={"type": "custom", "import": CAPPED, "cap": 2, "weight": 0.5},
            regularizers=["gd", "others_package.methods.Keep"],
        )
        assert (run.method.type, run.method.cap, run.method.weight) == ("capped", 2.0, 0.5)  # type: ignore[comparison-overlap,union-attr]
        assert run.label == "CAPPED+GD+KEEP"

    def test_a_place_in_the_short_form_and_overrides(self, site: Path) -> None:
        run = unlearning("method.cap=3", "regularizers.0.weight=2", method=f"{CAPPED}+keep")
        assert run.method.cap == 3.0  # type: ignore[union-attr]
        assert run.regularizers[0].weight == 2.0

    def test_inside_trainers_of_hugging_face(self, site: Path) -> None:
        assert [term.type for term in hf._terms(f"capped+gd+{CAPPED.replace('Capped', 'Keep')}")] == [
            "capped",
            "gd",
            "keep",
        ]

    def test_a_module_in_the_working_directory(self, here: Path) -> None:
        mine(here, "from obliviate.methods import NPO\n\n\nclass Mine(NPO):\n    type: str = 'mine'\n")
        assert isinstance(unlearning(method="mine.Mine").method, NPO)

    def test_what_is_written_is_found_again(self, site: Path) -> None:
        """Without the package's entry points, too: by the place."""
        run = unlearning(method="capped+keep")
        written = json.loads(run.model_dump_json())
        assert written["method"] == {
            "type": "capped", "import": CAPPED, "weight": 1.0, "trainable": None, "cap": 5.0,
        }  # fmt: skip
        (site / "others-1.0.dist-info" / "entry_points.txt").write_text("")
        plugins._listed.cache_clear()
        again = UnlearnRun.model_validate(written)
        assert again == run
        assert again.model_dump() == run.model_dump()

    def test_ours_are_written_as_before(self) -> None:
        written = unlearning(method="npo+gd").model_dump(mode="json")
        assert (written["method"]["type"], written["regularizers"]) == ("npo", [GD().model_dump(mode="json")])
        assert "import" not in written["method"]

    def test_a_config_over_a_base_with_another_class(self, here: Path, site: Path) -> None:
        """Keys of the base's class are unknown to it."""
        mine(here, "from obliviate.methods import GA\n\n\nclass Mine(GA):\n    type: str = 'mine'\n")
        base = {**BASE, "method": {"type": "custom", "import": CAPPED, "cap": 2}}
        (here / "base.yaml").write_text(json.dumps(base))
        over = {"base": "base.yaml", "method": {"type": "custom", "import": "mine.Mine"}}
        (here / "run.yaml").write_text(json.dumps(over))
        assert load(UnlearnRun, here / "run.yaml").label == "MINE"

    def test_what_hides_is_written_with_it(self, here: Path) -> None:
        """For whoever shows the model and does not have the class."""
        code = "from obliviate.methods import {0}\n\n\nclass Mine({0}):\n    type: str = 'mine'\n"
        mine(here, code.format("IDK") + "    hides = True\n")
        run = unlearning(method="mine.Mine+gd")
        written = json.loads(run.model_dump_json())
        assert written["method"]["hides"]
        assert hides(written["method"])
        assert UnlearnRun.model_validate(written) == run
        with pytest.raises(ValueError, match="mine: its models refuse only"):
            run.check_measured_bare()
        assert "remove early_drop" in mistake(method="mine.Mine+gd", early_drop={})
        (here / "mine_too.py").write_text(code.format("ICKU"))  # made of one that does
        assert hides(unlearning(method="mine_too.Mine").model_dump()["method"])
        (here / "mine_else.py").write_text(code.format("IDK"))
        assert not hides(unlearning(method="mine_else.Mine").model_dump()["method"])

    def test_what_a_method_looks_at_is_made_before_it(self, here: Path) -> None:
        """A second model where a statistic is of one, whatever the method."""
        mine(here, SECOND)
        assert unlearning(method="npo+mine.Mine").reinforcing is not None
        assert unlearning(method="npo+gd").reinforcing is None

    def test_what_a_sweep_may_vary(self, site: Path) -> None:
        assert parameters("capped+keep")[:4] == [
            "method.weight", "method.trainable", "method.cap", "regularizers.0.weight",
        ]  # fmt: skip

    def test_they_are_listed_with_where_they_come_from(self, site: Path, cli: Cli) -> None:
        told = " ".join(cli("methods").out.split())
        assert "capped: Gradient ascent up to a cap when Where ga collapses the model parameters" in told
        assert f"source others 1.0 from others 1.0 ({CAPPED})" in told
        assert "others 1.0 (others_package.methods.Keep)" in told


class TestMetricsAndData:
    SUITE = {"metrics": ["rouge", {"type": "words", "least": 2}], "comparisons": ["others_package.metrics.Items"]}  # noqa: RUF012

    def test_a_suite_measures_with_them_and_says_what_they_are(self, site: Path) -> None:
        spec = EvaluationSpec.model_validate({"suite": self.SUITE})
        suite = spec.suite.suite()  # type: ignore[union-attr]
        records = [record(Role.FORGET, generation=text, index=index) for index, text in enumerate(["one two", "one"])]
        found = summarise(records, suite, resamples=100)
        assert found.sets["forget"]["words"].value == 0.5
        assert found.comparisons["items"].value == 2.0
        report = ModelReport("m", "unlearned", found)
        assert _title([report], "words") == "Whether a generation has a word; higher: the model speaks"
        assert _title([report], "items") == "Items of the forget set; a count"
        assert EvaluationSpec.model_validate_json(spec.model_dump_json()) == spec

    def test_rescore_takes_a_name_and_a_place(self, site: Path) -> None:
        metrics = [{"type": "words"}, {"type": "custom", "import": "others_package.metrics.Items"}, {"type": "rouge"}]
        rescoring = build(Rescoring, {"metrics": metrics}, where="rescore")
        assert [each.type for each in rescoring.metrics] == ["words", "items", "rouge"]

    def test_data(self, site: Path) -> None:
        values = {"models": {"a": {"source": "m"}}, "data": {"type": "towns", "towns": 3}}
        run = build(EvaluateRun, values, where="run.yaml")
        assert [row.question for row in run.data.load().forget] == [f"Where is Ville {i}?" for i in range(3)]
        assert run.model_dump()["data"] == {"type": "towns", "import": "others_package.data.Towns", "towns": 3}

    def test_they_are_listed(self, site: Path, cli: Cli) -> None:
        told = " ".join(cli("metrics").out.split())
        assert (
            "words: Whether a generation has a word direction higher: the model speaks parameters least=1 suites a "
            "config's own source others 1.0 from others 1.0 (others_package.metrics.Words)" in told
        )
        assert "from others 1.0 (others_package.metrics.Items)" in told


class TestContent:
    def test_any_file_of_the_package_counts(self, site: Path) -> None:
        terms = unlearning(method="capped+gd").terms
        before = plugins.content(terms)
        assert plugins.content(terms) == before
        (site / "others_package" / "helper.py").write_text("K = 2\n")
        assert plugins.content(terms) != before

    def test_a_module_alone(self, here: Path, site: Path) -> None:
        """Of which other files are no part, unless its classes are made of theirs."""
        mine(here, f"from {CAPPED.rpartition('.')[0]} import Capped\n\n\nclass Mine(Capped):\n    type: str = 'mine'\n")
        terms = unlearning(method="mine.Mine").terms
        before = plugins.content(terms)
        (here / "other.py").write_text("K = 2\n")
        assert plugins.content(terms) == before
        (site / "others_package" / "helper.py").write_text("K = 2\n")
        changed = plugins.content(terms)
        assert changed != before
        (here / "mine.py").write_text("# edited\n")
        assert plugins.content(terms) not in (before, changed)

    def test_ours_have_none(self) -> None:
        """Their runs keep the hashes that they had."""
        suite = SUITES["closer_look"]
        assert plugins.content((*unlearning(method="npo+gd").terms, *suite.metrics, *suite.comparisons)) is None
        assert content_of_suite(suite)

    def test_an_edited_class_trains_anew(
        self, tiny: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = unlearning(model={"source": str(tiny)}, method="capped+gd", runs=str(tmp_path / "runs"))
        before = UnlearnRecipe(run).stages[0].run.directory
        assert UnlearnRecipe(run).stages[0].run.directory == before
        (site / "others_package" / "methods.py").write_text("# edited\n")
        assert UnlearnRecipe(run).stages[0].run.directory != before

    def test_an_edited_class_makes_other_figures(self, site: Path, tmp_path: Path) -> None:
        suite = {"metrics": ["words"], "comparisons": ["items"]}
        spec = EvaluationSpec.model_validate({"suite": suite, "encoder": None, "nli": None, "fluency": None})
        measuring = Measuring(unlearning(method="ga").data.load(), spec, None, str(tmp_path / "runs"))
        model = ModelSpec(source="some/model")
        before = measuring.figures("m", model).run.directory
        assert measuring.figures("m", model).run.directory == before
        (site / "others_package" / "metrics.py").write_text("# edited\n")
        assert measuring.figures("m", model).run.directory != before


class TestElsewhere:
    def test_what_workers_get(self, here: Path, site: Path) -> None:
        mine(here, "from obliviate.methods import GD\n\n\nclass Mine(GD):\n    type: str = 'mine'\n")
        assert plugins.runtime_env() == {}
        unlearning(method="capped+mine.Mine")
        environment = plugins.runtime_env()
        assert environment["py_modules"] == [str(site / "others_package"), str(here / "mine.py")]
        handed_down = environment["env_vars"]["OBLIVIATE_ENTRY_POINTS"]
        assert json.loads(handed_down) == [["obliviate.methods", "capped", "others_package.methods:Capped"]]

    def test_a_job_gets_the_same_and_its_driver_adds_nothing(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        unlearning(method="capped+gd")
        environment = runtime_env(Path.cwd())
        assert environment["py_modules"][-1] == str(site / "others_package")
        assert plugins.ENTRY_POINTS_VARIABLE in environment["env_vars"]
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        assert plugins.runtime_env() == {}

    def test_a_name_is_known_where_only_the_package_was_sent(
        self, here: Path, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (site / "others-1.0.dist-info" / "entry_points.txt").unlink()
        plugins._listed.cache_clear()
        assert "'capped' is not known" in mistake(method={"type": "capped"})
        handed_down = json.dumps([["obliviate.methods", "capped", "others_package.methods:Capped"]])
        monkeypatch.setenv("OBLIVIATE_ENTRY_POINTS", handed_down)
        assert unlearning(method="capped+gd").label == "CAPPED+GD"


TERM = """
from typing import ClassVar
from obliviate.methods import {base}, Loss


class Mine({base}):
    {body}
"""


class TestMistakes:
    def test_an_unknown_name_lists_those_of_packages(self, site: Path) -> None:
        assert mistake(method={"type": "cappd"}) == "run.yaml: method.type: 'cappd' is not known; did you mean capped?"
        assert mistake(method="zzz").endswith(", opt_out, snap, capped")
        assert mistake(method="npo+zzz").endswith(", representations, orthogonal, keep")
        assert mistake(method="npo", data={"type": "zzz"}).endswith(", pistol, towns")

    def test_a_value_that_the_class_refuses(self, site: Path) -> None:
        given = {"type": "custom", "import": CAPPED, "cap": -1}
        assert mistake(method=given) == "run.yaml: method: cap: should be greater than 0 (got -1)"
        given = {"type": "capped", "cup": 1}
        assert mistake(method=given) == "run.yaml: method: cup: unknown key; did you mean cap?"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"type": "custom"}, "import: missing; name the class there, as package.module.Class"),
            ("nowhere.Mine", "import: nowhere.Mine: nowhere cannot be imported: neither installed nor in the working "
             "directory {here}"),
            ("mine.Yours", "import: mine.Yours: {here}/mine.py has no Yours"),
            ("mine.", "import: mine.: is no place of a class; write it as package.module.Class"),
            ({"type": "custom", "import": "Mine"}, "import: Mine: is no place of a class; write it as "
             "package.module.Class"),
            ("others_package.methods.Keep", "import: others_package.methods.Keep: is no "
             "obliviate.methods.base.ForgetObjective; subclass it"),
            ("obliviate.methods.npo.NPO", "import: obliviate.methods.npo.NPO: type is 'npo', which is ours; give it a "
             "name of its own"),
            ({"type": "npo", "import": CAPPED}, f"type: npo: {CAPPED} is called capped; write type: custom"),
        ],
    )  # fmt: skip
    def test_places(self, here: Path, site: Path, given: Any, message: str) -> None:
        mine(here, "")
        assert mistake(method=given) == f"run.yaml: method: {message.format(here=here)}"

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (TERM.format(base="ForgetObjective", body="type: str = 'mine'"), "has no loss, needs; define it"),
            (TERM.format(base="GA", body="title: ClassVar = 'Mine'"), "type is 'ga', which is ours; give it a name of "
             "its own"),
            (TERM.format(base="GA", body="type: str = 'llmu'"), "type is 'llmu', which is ours; give it a name of its "
             "own"),
            (TERM.format(base="GA", body="type: str = 'My+Own'"), "type is 'My+Own'; give it a default of a-z, 0-9 "
             "and _"),
            (TERM.format(base="ForgetObjective", body="type: str = 'mine'; needs: ClassVar = 1; loss: ClassVar = 1"),
             "has no source, title, when; give the class that text"),
        ],
    )  # fmt: skip
    def test_classes(self, here: Path, code: str, message: str) -> None:
        mine(here, code)
        assert mistake(method="mine.Mine") == f"run.yaml: method: import: mine.Mine: {message}"

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere' ({here}/mine.py, line 1)"),
            ("\nx = y\n", "NameError: name 'y' is not defined ({here}/mine.py, line 2)"),
            (
                "from obliviate.methods import GA\nclass Mine(GA):\n    cap = 2\n",
                "PydanticUserError: A non-annotated attribute was detected: `cap = 2`. All model fields require a type "
                "annotation; if `cap` is not meant to be a field, you may be able to resolve this error by annotating "
                "it as a `ClassVar` or updating `model_config['ignored_types']`. ({here}/mine.py, line 2)",
            ),
            ("def f(:\n", "invalid syntax ({here}/mine.py, line 1)"),
        ],
    )
    def test_modules_that_cannot_be_imported(self, here: Path, code: str, message: str) -> None:
        mine(here, code)
        told = message.format(here=here)
        assert mistake(method="mine.Mine") == f"run.yaml: method: import: mine.Mine: mine cannot be imported: {told}"

    @pytest.mark.parametrize(("name", "file"), [("mine", None), ("__main__", None), ("__main__", "script.py")])
    def test_a_class_that_workers_could_not_import(
        self, monkeypatch: pytest.MonkeyPatch, name: str, file: str | None
    ) -> None:
        """As one typed into a notebook, or into the script that runs."""
        made = ModuleType(name)
        made.__file__ = file
        monkeypatch.setitem(sys.modules, name, made)
        exec("from obliviate.methods import GA\nclass Mine(GA):\n    type: str = 'mine'", vars(made))
        assert f"import: {name}.Mine: stands in no module that workers could import" in mistake(method=made.Mine())

    def test_exit_2_before_anything_starts(self, here: Path, cli: Cli) -> None:
        (here / "run.yaml").write_text(json.dumps({**BASE, "method": "nowhere.Mine"}))
        done = cli("unlearn", here / "run.yaml")
        assert (done.code, done.error.count("\n")) == (2, 1)
        assert done.error.startswith(
            f"error: {here}/run.yaml: method: import: nowhere.Mine: nowhere cannot be imported"
        )

    def test_a_package_that_takes_a_name_of_ours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        points = {"obliviate.methods": {"npo": "others_package.methods:Capped", "rmu": "nowhere:RMU"}}
        monkeypatch.syspath_prepend(others.install(tmp_path / "site", points))
        assert mistake(method="npo+gd") == (
            f"run.yaml: method: npo: others 1.0 ({CAPPED}) offers it, and the name is ours; it needs another one"
        )

    def test_two_packages_with_one_name(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        points = {"obliviate.methods": {"capped": "others_package.methods:Keep"}}
        monkeypatch.syspath_prepend(others.install(site.with_name("second"), points, "second"))
        assert "second 1.0 (others_package.methods.Keep) and others 1.0 (" in mistake(method="capped+gd")

    def test_an_entry_point_that_is_called_otherwise(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
    ) -> None:
        """The others of its package are of use all the same, and the list says what is wrong."""
        points = {"obliviate.methods": {"limit": "others_package.methods:Capped", "lost": "nowhere:Lost",
                                        "keep": "others_package.methods:Keep"}}  # fmt: skip
        monkeypatch.syspath_prepend(others.install(tmp_path / "site", points))
        wrong = f"limit: {CAPPED} is called capped; the entry point needs that name"
        assert mistake(method="limit+gd") == f"run.yaml: method: {wrong}"
        assert unlearning(method="npo+keep").label == "NPO+KEEP"
        told = " ".join(cli("methods").out.split())
        assert f"not usable: {wrong}; from others 1.0 ({CAPPED})" in told
        assert "not usable: import: nowhere.Lost: nowhere cannot be imported" in told


class TestAttacks:
    VALUES: ClassVar[dict[str, Any]] = {
        "model": {"source": "m"}, "retain_model": {"source": "r"}, "models": {"a": {"source": "a"}},
        "data": {"type": "fictitious", "people": 4}, "evaluation": {"suite": "robustness"},
    }  # fmt: skip

    def run(self, *attacks: Any) -> AttackRun:
        return build(AttackRun, {**self.VALUES, "attacks": list(attacks)}, where="run.yaml")

    @pytest.mark.parametrize(
        "attack",
        [{"type": "nothing", "times": 3}, {"type": "custom", "import": "others_package.attacks.Nothing", "times": 3}],
    )
    def test_by_name_and_by_place(self, site: Path, attack: dict[str, Any]) -> None:
        config = self.run(attack, {"type": "patch"})
        [robust] = [stage for stage in Attacks(config).stages if stage.kind == "attack"]
        assert isinstance(robust, Robust)
        assert [one.setting for one in robust.attempts["nothing", "a"]] == ["nothing 0", "nothing 1", "nothing 2"]
        assert AttackRun.model_validate(json.loads(config.model_dump_json())) == config

    def test_it_is_listed(self, site: Path, cli: Cli) -> None:
        assert "nothing: Does nothing, several times" in " ".join(cli("attacks").out.split())

    def test_what_is_no_attack(self, site: Path) -> None:
        with pytest.raises(UserError, match=r"others_package\.methods\.Capped"):
            self.run({"type": "custom", "import": CAPPED})
