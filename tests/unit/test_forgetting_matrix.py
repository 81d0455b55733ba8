"""The forgetting matrix, its measures, and how it is shown; R is given or made of records by hand."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from measured import answers, record
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate_eval.forgetting import ForgettingMatrix, check, forgetting_matrix
from obliviate_eval.records import Probe
from obliviate_eval.report.build import ModelReport, build_report
from obliviate_eval.report.forgetting import forgetting_section, matrix_table
from obliviate_eval.statistics import Figure
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import summarise


def figure(value: float | None) -> Figure:
    return Figure(value=value, low=None, high=None, scored=1, unscored=0)


def matrix(rows: list[list[float | None]], name: str = "ME+GD") -> ForgettingMatrix:
    return ForgettingMatrix(
        name=name,
        tasks=tuple(f"task_{i}" for i in range(1, len(rows[0]) + 1)),
        efficacy=tuple(tuple(map(figure, row)) for row in rows),
        utility=tuple(figure(0.5) for _ in rows),
    )


THREE = matrix([[0.2, 0.2, 0.3], [0.9, 0.3, 0.3], [0.8, 0.9, 0.5], [0.5, 0.7, 0.9]])


def test_leakage_is_what_came_back_of_earlier_tasks() -> None:
    """After step 2: 0.9 - 0.8. After step 3: the mean of 0.9 - 0.5 and 0.9 - 0.7."""
    assert [THREE.leakage(step) for step in range(4)] == [None, None, pytest.approx(0.1), pytest.approx(0.3)]


def test_spill_is_what_was_lost_of_later_tasks() -> None:
    """After step 1: the mean of 0.3 - 0.2 and 0.3 - 0.3. After step 2: 0.5 - 0.3."""
    assert [THREE.spill(step) for step in range(4)] == [None, pytest.approx(0.05), pytest.approx(0.2), None]


def test_what_was_not_measured_has_no_mean() -> None:
    gap = matrix([[0.2, 0.2, 0.2], [None, 0.3, 0.2], [0.8, 0.9, 0.2], [0.5, 0.7, 0.9]])
    assert (gap.leakage(2), gap.leakage(3)) == (None, None)
    assert gap.spill(1) == pytest.approx(0.05)


def test_each_task_is_its_own_set() -> None:
    """Two tasks of one item: the first is said word for word (ROUGE 1, P 1), of the second nothing is (0, e^-2).

    Only ROUGE and probability are scored: FE is 1 - mean of the two. Utility has the retain set: ROUGE 1, P 1.
    """

    def said(name: str, role: Role, generation: str, logp: float) -> object:
        return record(role, set=name, generation=generation, answers={Probe.ANSWER: answers(logp)})

    records = [
        said("task_1", Role.FORGET, "the cat sat", 0.0),
        said("task_2", Role.FORGET, "no", -2.0),
        said("retain", Role.RETAIN, "the cat sat", 0.0),
    ]
    evaluation = summarise(records, SUITES["closer_look"])  # type: ignore[arg-type]
    found = forgetting_matrix(
        "m", ["task_1", "task_2"], [records], [evaluation], SUITES["closer_look"], seed=0  # type: ignore[list-item]
    )  # fmt: skip
    assert found.value(0, 1) == pytest.approx(0.0)
    assert found.value(0, 2) == pytest.approx(1 - (0 + 0.1353352832) / 2)
    assert found.utility[0] == evaluation.aggregates["model_utility"]


def test_a_suite_without_forget_efficacy() -> None:
    with pytest.raises(UserError, match=r"evaluation\.suite: tofu has no forget efficacy"):
        check(SUITES["tofu"])


def test_the_terminal_shows_every_number() -> None:
    console = Console(file=StringIO(), width=120)
    console.print(matrix_table(THREE))
    assert isinstance(console.file, StringIO)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines()]
    assert ["before", "0.200", "0.200", "0.300", "–", "–", "0.500"] in lines
    assert ["3: task 3", "0.500", "0.700", "0.900", "0.300", "–", "0.500"] in lines


def test_the_report_has_a_heat_map_for_each_method_and_the_curves(tmp_path: Path) -> None:
    records = [record(Role.FORGET, generation="x", answers={Probe.ANSWER: answers(-1.0)})]
    model = ModelReport("m", "unlearned", summarise(records, SUITES["closer_look"]))
    section = forgetting_section([THREE, matrix([[0.2, 0.2], [0.9, 0.3], [0.8, 0.9]], "NPO+GD <fixed>")])
    build_report("Continual", [model], [], tmp_path / "report.html", [section])
    page = (tmp_path / "report.html").read_text()
    charts = json.loads(page.split('id="data">')[1].split("</script>")[0])["charts"]
    assert charts["matrix-0"]["data"][0]["z"][3] == [0.5, 0.7, 0.9]
    assert len(charts["matrix-0"]["layout"]["shapes"]) == 3
    assert charts["continual-leakage"]["data"][0]["y"][:2] == [None, None]
    assert [trace["name"] for trace in charts["continual-utility"]["data"]] == ["ME+GD", "NPO+GD &lt;fixed&gt;"]
    for chart in charts.values():
        assert {"xaxis", "yaxis"} <= set(chart["layout"])  # the page's script styles both
    for name in section.charts:
        assert f'data-chart="{name.id}"' in page
    assert '<a href="#continual">Continual</a>' in page
    assert "<fixed>" not in page
