"""The sweep's page and table: the front, what hovering shows, commands, and that nothing in it can run."""

import json
import re
from html import unescape
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console
from test_sweep_space import sweep

from obliviate.tracking import MlflowTracking
from obliviate_cli.console import Terminal
from obliviate_eval.report.sweep_plots import symbol
from obliviate_recipes.sweeps import logs
from obliviate_recipes.sweeps.calibrate import Calibrated
from obliviate_recipes.sweeps.logs import open_logs
from obliviate_recipes.sweeps.records import TrialRecord
from obliviate_recipes.sweeps.result import Result, write_result
from obliviate_recipes.sweeps.spec import SweepRun
from obliviate_recipes.tracking.board import Begun


def record(beta: float, seed: int, forget: float | None, utility: float | None, **more: Any) -> TrialRecord:
    fields = {"status": "done", "steps": 8, **more}
    return TrialRecord(
        f"b{beta}-s{seed}", "npo+gd", {"method.beta": beta}, seed, forget=forget, utility=utility, **fields
    )


RECORDS = [
    record(0.1, 0, 0.9, 0.2),
    record(0.1, 1, 0.7, 0.4),
    record(0.5, 0, 0.2, 0.9),
    record(0.5, 1, 0.2, 0.9),
    TrialRecord("c-s0", "ga+gd", {"optim.epochs": 3.0}, 0, "done", forget=0.1, utility=0.5),
    TrialRecord("c-s1", "ga+gd", {"optim.epochs": 3.0}, 1, "done", forget=0.1, utility=0.5),
    TrialRecord("d-s0", "ga+gd", {"optim.epochs": 9.0}, 0, "failed", cause="the loss is <script>alert(1)</script>"),
]


@pytest.fixture
def config(tmp_path: Path) -> SweepRun:
    return sweep({"methods": ["npo+gd", "ga+gd"]}, f"runs={tmp_path}", seeds=[0, 1], title="Sweep <b>")


@pytest.fixture
def written(config: SweepRun, tmp_path: Path) -> tuple[Path, str]:
    for each in RECORDS:
        each.write(tmp_path)
    result = Result.of(config, tmp_path, "target model", (0.05, 0.95))
    mixed = Calibrated("b0.1-s0", "npo+gd", 0.375, 0.44, 0.91, "folder")
    out = StringIO()
    terminal = Terminal(Console(file=out, width=200))
    write_result(Result(**{**vars(result), "calibrated": (mixed,)}), terminal)
    return tmp_path, out.getvalue()


def charts(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(unescape(found[1]))
    return data["charts"]  # type: ignore[no-any-return]


def test_the_front_shows_means_over_seeds_and_parameters_on_hovering(written: tuple[Path, str]) -> None:
    """npo+gd at beta 0.1: means of (0.9, 0.2) and (0.7, 0.4)."""
    traces = {trace["name"]: trace for trace in charts((written[0] / "report.html").read_text())["front"]["data"]}
    npo = traces["npo+gd"]
    assert list(zip(npo["x"], npo["y"], strict=True)) == [pytest.approx((0.8, 0.3)), pytest.approx((0.2, 0.9))]
    assert "method.beta = 0.1" in npo["customdata"][0]
    assert npo["marker"]["opacity"] == [1, 1]
    assert traces["ga+gd"]["marker"]["opacity"] == [0.4]  # dominated by beta 0.5
    assert traces["front"]["x"] == pytest.approx([0.2, 0.8])
    assert (traces["original"]["x"], traces["original"]["y"]) == ([0.05], [0.95])


def test_every_configuration_is_a_line_broken_where_it_has_no_such_parameter(written: tuple[Path, str]) -> None:
    """Axes: beta, epochs, forget, utility, each from its lowest to its highest; one value alone lies in the middle."""
    traces = {trace["name"]: trace for trace in charts((written[0] / "report.html").read_text())["parallel"]["data"]}
    assert traces["npo+gd"]["y"][:5] == [0, None, pytest.approx(1), pytest.approx(0), None]
    assert traces["ga+gd"]["y"] == [None, 0.5, pytest.approx(0), pytest.approx(1 / 3), None]


def test_commands_causes_and_equal_utility_are_in_the_page(written: tuple[Path, str]) -> None:
    page = unescape((written[0] / "report.html").read_text())
    assert f"obliviate unlearn {written[0]}/unlearn.yaml method=npo+gd method.beta=0.1 seed=1" in page
    assert "At equal utility" in page
    assert "0.375" in page


def test_nothing_in_the_page_runs_that_is_not_its_own(written: tuple[Path, str]) -> None:
    page = (written[0] / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "<title>Sweep &lt;b&gt;</title>" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)


def test_the_json_has_the_figures(written: tuple[Path, str]) -> None:
    """Hypervolume: 0.8 x 0.3 + 0.2 x (0.9 - 0.3)."""
    found = json.loads((written[0] / "report.json").read_text())
    assert found["hypervolume"] == pytest.approx(0.24 + 0.12)
    assert found["configurations"][0]["forget"]["count"] == 2
    assert {trial["id"]: trial["status"] for trial in found["trials"]}["d-s0"] == "failed"


def test_where_each_method_wins_is_in_page_json_and_table(written: tuple[Path, str]) -> None:
    """The front is npo+gd alone: (0.2, 0.9) and (0.8, 0.3)."""
    folder, text = written
    (region,) = json.loads((folder / "report.json").read_text())["regions"]
    assert region == {"method": "npo+gd", "low": 0.0, "high": 0.9, "least": 0.2, "most": pytest.approx(0.8)}
    assert "utility 0.000 to 0.900: npo+gd forgets most, 0.200 to 0.800" in text
    page = (folder / "report.html").read_text()
    assert "Where each method wins" in page
    assert "0 – 95 %" in page  # of the original's 0.95


def test_the_front_is_drawn_as_a_picture(written: tuple[Path, str]) -> None:
    """Forget goes from 0.05 (the original) to 0.8; with 6 % more on each side 0.84 are 450 pixels from 70 on, so that
    0.2 lies at 70 + 450 x 0.195 / 0.84. Utility goes from 0.3 to 0.95: 0.728 are 380 pixels up from 440, so that 0.9
    lies at 440 - 380 x 0.639 / 0.728. The front goes across to it, down, and across to the next."""
    root = ET.parse(written[0] / "front.svg").getroot()
    places = [(path.findtext("{*}title"), path.get("transform", "")) for path in root.findall(".//{*}path")]
    assert ("npo+gd " + RECORDS[2].trial.point.id, "translate(174.5 106.5) scale(9)") in places  # chosen
    assert sum(place.endswith("scale(5)") for _, place in places) == 1  # ga+gd is not on the front
    assert "M70 106.5H174.5V419.6H495.9V440.0" in [path.get("d") for path in root.findall(".//{*}path")]
    texts = [text.text for text in root.findall(".//{*}text")]
    assert "Sweep <b>" in texts
    assert {"npo+gd", "ga+gd", "original"} <= set(texts)


def test_a_seventh_method_has_another_marker_than_the_first() -> None:
    """There are six colours."""
    assert symbol(0) == symbol(5) == "circle"
    assert symbol(6) == "square"


def test_the_table_marks_front_and_choice(written: tuple[Path, str]) -> None:
    """Of two ends of a front the knee is the more useful."""
    text = written[1]
    assert "2 of 3 configurations on the front, hypervolume 0.3600" in text
    assert [line.split("│")[-2].strip() for line in text.splitlines() if "npo+gd" in line and "│" in line] == [
        "front", "chosen",
    ]  # fmt: skip
    assert "d-s0 failed: the loss is" in text
    assert "at equal utility: npo+gd forget 0.440" in text


def test_a_sweep_without_a_measured_trial_has_a_report_all_the_same(config: SweepRun, tmp_path: Path) -> None:
    RECORDS[-1].write(tmp_path)
    out = StringIO()
    write_result(Result.of(config, tmp_path, "m", (0.0, 1.0)), Terminal(Console(file=out, width=200)))
    assert "no configuration meets choose.type=knee" in out.getvalue()
    assert (tmp_path / "report.html").exists()


class TestLogs:
    def test_hparams(self, config: SweepRun, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        signal = {
            "point": 1,
            "step": 4,
            "steps": 8,
            "signal": 0.3,
            "forget_probability": 0.5,
            "retain_probability": 0.6,
        }
        (opened,) = open_logs(tmp_path, config)
        opened.trial(record(0.1, 0, 0.9, 0.2, signals=(signal,)))
        opened.trial(record(0.1, 0, 0.9, 0.2, signals=(signal,)))  # of a resumed sweep
        board = EventAccumulator(str(tmp_path / "tensorboard" / "b0.1-s0")).Reload()
        assert [(each.step, each.value) for each in board.Scalars("signal")] == [(4, pytest.approx(0.3))]
        assert board.Scalars("forget")[0].value == pytest.approx(0.9)
        assert "_hparams_/session_start_info" in board.PluginTagToContent("hparams")

    def test_a_trial_that_crashed_and_then_ended_well_is_shown_as_it_ended(
        self, config: SweepRun, tmp_path: Path
    ) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (opened,) = open_logs(tmp_path, config)
        opened.trial(record(0.1, 0, None, None, status="crashed"))
        opened.trial(record(0.1, 0, 0.9, 0.2))
        board = EventAccumulator(str(tmp_path / "tensorboard" / "b0.1-s0")).Reload()
        assert board.Scalars("forget")[0].value == pytest.approx(0.9)

    def test_a_tracker_that_is_gone_ends_no_sweep(
        self, config: SweepRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def gone(begun: Begun) -> None:
            raise RuntimeError("API request failed\nwith a long tail")

        monkeypatch.setattr(logs, "open_board", lambda spec, runs: SimpleNamespace(open=gone))
        _, log = open_logs(
            tmp_path, config.model_copy(update={"tracking": MlflowTracking(uri="http://localhost:5000")})
        )
        log.trial(RECORDS[0])
        assert "mlflow: trial b0.1-s0 is not logged (API request failed): the same command" in caplog.text

    def test_trials_in_mlflow(self, config: SweepRun, tmp_path: Path) -> None:
        mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        tracked = config.model_copy(update={"tracking": MlflowTracking(uri=uri)})
        for _ in range(2):  # the second time is a resumed sweep
            _, log = open_logs(tmp_path / "sweep", tracked)
            for each in (RECORDS[0], RECORDS[-1]):
                log.trial(each)
        mlflow.set_tracking_uri(uri)
        runs = mlflow.search_runs(experiment_names=["obliviate"], output_format="list")
        found = {run.info.run_name: run for run in runs}
        assert set(found) == {"b0.1-s0", "d-s0"}
        assert len(runs) == 2
        assert found["b0.1-s0"].data.params["method.beta"] == "0.1"
        assert found["b0.1-s0"].data.metrics["forget"] == pytest.approx(0.9)
        assert found["d-s0"].info.status == "FAILED"
        _, log = open_logs(tmp_path / "other", tracked)
        log.trial(RECORDS[0])  # of a sweep with the same title, on other data
        assert len(mlflow.search_runs(experiment_names=["obliviate"], output_format="list")) == 3
