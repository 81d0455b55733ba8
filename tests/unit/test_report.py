"""The report: what stands in it is read back from the HTML, as a browser would."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from math import log
from pathlib import Path

import pytest
from rich.console import Console

from obliviate.data.rows import Role
from obliviate_eval.forget_quality import ForgetQuality
from obliviate_eval.paired import Difference, Differences
from obliviate_eval.records import Probe, Record, ScoredAnswer
from obliviate_eval.report.build import ModelReport, build_report, report_json
from obliviate_eval.report.model import Kind
from obliviate_eval.report.plots import UNLEARNED_COLOURS, looks
from obliviate_eval.report.still_said import still_said
from obliviate_eval.report.terminal import Comparison, beyond_retain, differences_table
from obliviate_eval.statistics import Figure
from obliviate_eval.summary import Evaluation

VOID = {"meta", "input", "br", "img", "link"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"


class Page(HTMLParser):
    """Tags with their attributes, the text of each script, and the tables as rows of cell texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            script = next(attributes.get("id") for tag, attributes in reversed(self.tags) if tag == "script")
            self.scripts[script] = self.scripts.get(script, "") + data
        elif "style" not in self.open:
            self.text += data
            if "td" in self.open or "th" in self.open:
                cells = self.tables[-1][-1]
                cells[-1] = f"{cells[-1]} {' '.join(data.split())}".strip()

    @property
    def data(self) -> dict:
        return json.loads(self.scripts["data"], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    @property
    def questions(self) -> list:
        packed = self.scripts.get("packed-questions")
        return [] if packed is None else json.loads(gzip.decompress(base64.b64decode(packed)))

    def row(self, table: int, name: str) -> list[str]:
        return next(row for row in self.tables[table] if row[0].startswith(name))


def figure(value: float | None, low: float | None = None, high: float | None = None, scored=10, unscored=0) -> Figure:
    return Figure(value=value, low=low, high=high, scored=scored, unscored=unscored)


def quality(log10_p: float, statistic: float) -> ForgetQuality:
    return ForgetQuality(
        p_value=10**log10_p, log10_p=log10_p, statistic=statistic, smallest_log10_p=-4.97,
        scored=10, unscored=2, reference_scored=10, reference_unscored=1,
    )  # fmt: skip


def record(answer: str | None, probability: float, index: int = 0, set_name: str = "forget", **given) -> Record:
    return Record(
        set=set_name, role=Role(set_name), index=index, question=f"Who wrote book {index}?", reference="Ada Lovelace",
        full_reference="Ada Lovelace wrote it.", generation=answer,
        answers={Probe.ANSWER: (ScoredAnswer("Ada Lovelace", (log(probability), log(probability))),)}, **given,
    )  # fmt: skip


def evaluation(
    efficacy: float, utility: float, fq: ForgetQuality | None = None, **sets: dict[str, Figure]
) -> Evaluation:
    sets = sets or {
        "retain": {"rouge": figure(0.777, 0.7, 0.8), "probability": figure(0.666)},
        "forget": {"rouge": figure(0.123, 0.1, 0.15, 8, 2), "probability": figure(None, scored=0, unscored=10)},
    }
    return Evaluation(
        suite="closer_look",
        roles={name: Role(name) for name in sets},
        sets=sets,
        aggregates={
            "model_utility": figure(utility, utility - 0.02, utility + 0.02, 18),
            "forget_efficacy": figure(efficacy, efficacy - 0.03, efficacy + 0.03, 5),
        },
        forget_quality=fq,
    )


CURVE = [
    {"step": step, "loss": 4.0 / step, "parts": {"me": 8.0 / step, "gd": 0.5}, "learning_rate": 1e-5,
     "tokens_per_s": 1234.0}
    for step in (1, 2, 4)
]  # fmt: skip


@pytest.fixture(scope="module")
def models() -> list[ModelReport]:
    return [
        ModelReport("Before", "target", evaluation(0.2, 0.7), records=[record("Ada Lovelace", 0.9)]),
        ModelReport("Gold", "retain", evaluation(0.6, 0.7, quality(0.0, 0.1)), records=[record("Somebody", 0.1)]),
        ModelReport(
            "Erased",
            "unlearned",
            evaluation(0.64, 0.5, quality(-3.25, 0.8)),
            method="ME+GD",
            provenance={
                "command": "obliviate unlearn configs/me.yaml",
                "seed": 1001,
                "machine": None,
                "config": {"optim": {"epochs": 5}},
            },
            curve=CURVE,
            records=[record("", 0.25, generation_finished=False), record("Bob", 0.5, index=1)],
        ),
    ]


def build(models: list[ModelReport], path: Path, title: str = "A comparison", notes: tuple[str, ...] = ()) -> Page:
    build_report(title, models, notes, path / "report.html")
    return Page((path / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(models: list[ModelReport], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return build(models, tmp_path_factory.mktemp("report"), notes=("Ten questions.",))


def test_summary_has_every_figure_with_interval_and_counts(page: Page) -> None:
    head = [cell.removesuffix(" ↑").removesuffix(" ↓") for cell in page.tables[0][0]]
    assert head == ["Model", "Forget efficacy", "Model utility", "FQ p", "FQ KS", "FQ log₁₀ p"]
    name, efficacy, utility, p, ks, log10_p = page.row(0, "Erased")
    assert name == "Erased ME+GD · unlearned"
    assert efficacy == "0.640 0.610 – 0.670 means: 5"
    assert utility == "0.500 0.480 – 0.520 means: 18"
    assert p == "0.00056 n = 10, 10 3 not scored"  # 10 ** -3.25
    assert ks == "0.800"
    assert log10_p == "-3.25 at least -4.97"
    assert page.row(0, "Before")[3:] == ["–", "–", "–"]  # without a test against a retain model


def test_metrics_of_each_set_stand_in_a_table_the_forget_set_first(page: Page) -> None:
    names = [row[0] for row in page.tables[1]]
    assert names == ["Model", "Before before unlearning", "Gold never saw the forget set", "Erased ME+GD · unlearned"]
    assert page.row(1, "Erased")[1:] == ["0.123 0.100 – 0.150 n = 8 2 not scored", "– 10 not scored"]
    assert page.row(2, "Erased")[1:] == ["0.777 0.700 – 0.800 n = 10", "0.666 n = 10"]


def test_best_is_marked_among_unlearned_models_with_those_within_their_interval(tmp_path: Path) -> None:
    """0.64 leads. 0.62 + 0.03 reaches it, 0.60 + 0.03 doesn't; the retain model's 0.9 doesn't take part."""
    names = {"top": 0.64, "close": 0.62, "behind": 0.60}
    models = [ModelReport(name, "unlearned", evaluation(value, 0.5)) for name, value in names.items()]
    page = build([*models, ModelReport("gold", "retain", evaluation(0.9, 0.9))], tmp_path)
    marked = {name: "best" in page.row(0, name)[1] for name in (*names, "gold")}
    assert marked == {"top": True, "close": True, "behind": False, "gold": False}


def test_title_notes_and_provenance(page: Page) -> None:
    for text in ("A comparison", "Ten questions.", "obliviate unlearn configs/me.yaml", "1001", '"epochs": 5'):
        assert text in page.text
    assert "machine" not in page.text  # not known: nothing to say


def test_every_question_has_each_models_answer_beside_the_truth(page: Page) -> None:
    first, second = page.questions
    assert first["question"] == "Who wrote book 0?"
    assert first["truth"] == "Ada Lovelace"
    assert [answer[0] for answer in first["answers"]] == ["Ada Lovelace", "Somebody", ""]
    assert [answer[1] for answer in first["answers"]] == pytest.approx([0.9, 0.1, 0.25])
    assert [answer[2] for answer in first["answers"]] == [None, None, False]
    assert second["answers"][:2] == [None, None]
    assert second["answers"][2][0] == "Bob"


def test_charts_show_the_figures_under_one_colour_a_model(page: Page) -> None:
    charts, colours = page.data["charts"], [model["colour"] for model in page.data["models"]]
    places = {attributes["data-chart"] for _, attributes in page.tags if "data-chart" in attributes}
    assert places == set(charts) == {"trade-off", "bars-forget", "bars-retain", "curve-2"}
    points = charts["trade-off"]["data"]
    assert [(point["x"], point["y"]) for point in points] == [([0.2], [0.7]), ([0.6], [0.7]), ([0.64], [0.5])]
    assert points[1]["marker"]["symbol"] == "star"
    cross = [(shape["x0"], shape["y0"]) for shape in charts["trade-off"]["layout"]["shapes"]]
    assert cross == [(0.6, 0), (0, 0.7)]  # through the gold standard, across the whole chart
    bars = charts["bars-forget"]["data"]
    assert [bar["marker"]["color"] for bar in bars] == [point["marker"]["color"] for point in points] == colours
    assert bars[2]["x"] == [0.123, None]
    assert bars[2]["error_x"]["array"] == pytest.approx([0.027, None])  # 0.15 - 0.123
    assert bars[2]["error_x"]["arrayminus"] == pytest.approx([0.023, None])  # 0.123 - 0.1
    curve = charts["curve-2"]["data"]
    assert {line["name"]: line["y"] for line in curve} == {"loss": [4, 2, 1], "me": [8, 4, 2], "gd": [0.5] * 3}
    assert {line["line"]["color"] for line in curve} == {colours[2]}


def test_charts_say_in_words_what_they_show(page: Page) -> None:
    labels = {a["data-chart"]: a["aria-label"] for _, a in page.tags if "data-chart" in a}
    assert "Erased: forget efficacy 0.640, model utility 0.500" in labels["trade-off"]
    assert "3 optimiser steps; the loss goes from 4 to 1." in labels["curve-2"]


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("href", "src")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "form-action 'none'" in policy


def test_policy_allows_the_two_scripts_and_no_other(page: Page) -> None:
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    plotly = gzip.decompress(base64.b64decode(page.scripts["plotly"]))
    expected = {
        base64.b64encode(hashlib.sha256(script).digest()).decode() for script in (page.scripts[None].encode(), plotly)
    }
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == expected
    assert "unsafe" not in policy.split("script-src")[1]


def test_hostile_text_stays_text(page: Page, tmp_path: Path) -> None:
    model = ModelReport(
        HOSTILE, "unlearned", evaluation(0.5, 0.5), HOSTILE, {"command": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}},
        CURVE, [record(HOSTILE, 0.5)],
    )  # fmt: skip
    hostile = build([model], tmp_path, title=HOSTILE, notes=(HOSTILE,))
    tags = [tag for tag, _ in hostile.tags]
    assert tags.count("script") == [tag for tag, _ in page.tags].count("script") == 4
    assert "img" not in tags
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert hostile.questions[0]["answers"][0][0] == HOSTILE
    assert hostile.text.count(HOSTILE) >= 5
    assert all("<script" not in trace["name"] for trace in hostile.data["charts"]["trade-off"]["data"])


def test_one_bare_model(tmp_path: Path) -> None:
    """No curve, no records, no provenance, an aggregate without a value: the page is whole and leaves them out."""
    bare = evaluation(0.5, 0.5).model_copy(
        update={"aggregates": {"forget_efficacy": figure(None, scored=0, unscored=5)}}
    )
    page = build([ModelReport("Only", "unlearned", bare)], tmp_path)
    assert page.row(0, "Only") == ["Only unlearned", "– 5 absent", "–", "–", "–"]
    assert set(page.data["charts"]) == {"bars-forget", "bars-retain"}
    assert page.questions == []
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert not {"training", "answers"} & ids
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= ids  # no link leads nowhere
    assert "None was recorded." in page.text


def test_models_may_have_different_sets_and_metrics(tmp_path: Path) -> None:
    one = evaluation(0.5, 0.5, forget={"rouge": figure(0.4)})
    two = evaluation(0.5, 0.5, forget={"entailment": figure(0.3)}, world_facts={"rouge": figure(0.2)})
    page = build([ModelReport("one", "unlearned", one), ModelReport("two", "unlearned", two)], tmp_path)
    assert page.tables[1][0] == ["Model", "ROUGE-L recall", "Entailment"]
    assert page.row(1, "one")[1:] == ["0.400 n = 10", "–"]
    assert page.row(1, "two")[1:] == ["–", "0.300 n = 10"]
    assert page.row(2, "one")[1:] == ["–"]
    assert page.row(2, "two")[1:] == ["0.200 n = 10"]
    assert [bar["meta"] for bar in page.data["charts"]["bars-world_facts"]["data"]] == [1]


def test_without_forget_efficacy_the_trade_off_is_by_forget_quality(tmp_path: Path) -> None:
    tofu = evaluation(0.5, 0.5, quality(-3.25, 0.8)).model_copy(
        update={"aggregates": {"tofu_model_utility": figure(0.44)}}
    )
    point = build([ModelReport("m", "unlearned", tofu)], tmp_path).data["charts"]["trade-off"]["data"][0]
    assert (point["x"], point["y"]) == ([-3.25], [0.44])


def test_looks_are_distinct_beyond_the_palette() -> None:
    many = looks([(str(i), "unlearned") for i in range(13)])
    assert [look.colour for look in many[:6]] == list(UNLEARNED_COLOURS)
    assert len({(look.colour, look.pattern) for look in many}) == 13


def test_report_json_holds_every_figure(models: list[ModelReport]) -> None:
    found = json.loads(json.dumps(report_json(models), allow_nan=False))["models"][2]
    assert (found["name"], found["kind"], found["method"]) == ("Erased", "unlearned", "ME+GD")
    assert Evaluation.model_validate(found["evaluation"]) == models[2].evaluation
    assert found["provenance"]["config"] == {"optim": {"epochs": 5}}


def test_terminal_table(models: list[ModelReport]) -> None:
    console = Console(width=140, record=True, file=StringIO())
    console.print(Comparison(models))
    lines = [re.split(r"\s*│\s*", line)[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    place = next(place for place, line in enumerate(lines) if line[0] == "Erased")
    assert lines[place] == ["Erased", "ME+GD", "0.640", "0.500", "0.00056", "0.123", "–", "0.777", "0.666"]
    assert lines[place + 1] == ["", "", "0.61–0.67", "0.48–0.52", "KS 0.80", "0.10–0.15", "", "0.70–0.80", ""]
    before = next(line for line in lines if line[0] == "Before")
    assert before[:5] == ["Before", "–", "0.200", "0.700", "–"]


def test_forget_efficacy_stands_beside_the_retain_models() -> None:
    models = [ModelReport(name, kind, evaluation(value, 0.7)) for name, kind, value in (
        ("never knew", "retain", 0.63), ("before", "target", 0.2), ("after", "unlearned", 0.64),
    )]  # fmt: skip
    assert beyond_retain(models) == {"before": "\n-0.43", "after": "\n+0.01"}
    assert beyond_retain(models[1:]) == {}
    texts = []
    for width in (140, 80):
        console = Console(width=width, record=True, file=StringIO())
        console.print(Comparison(models))
        texts.append(console.export_text())
    assert "-0.43" in texts[0]
    assert "FE also rewards answers less likely than a model that never knew gives" in texts[0]
    assert "-0.43" not in texts[1]


def test_what_is_still_said_is_counted_beside_the_retain_model() -> None:
    def model(name: str, kind: Kind, said: float) -> ModelReport:
        found = evaluation(0.5, 0.5)
        of_forget = {**found.sets["forget"], "key_said": Figure(value=said, low=None, high=None, scored=20, unscored=0)}
        return ModelReport(name, kind, found.model_copy(update={"sets": {**found.sets, "forget": of_forget}}))

    never_knew = model("retain", "retain", 0.1)
    models = [model("before", "target", 1.0), model("half", "unlearned", 0.35), model("gone", "unlearned", 0.1)]
    [line] = still_said([never_knew, *models])
    assert line.startswith("half still says 7 of the 20 facts it was to forget, the retain model 2: raise optim.epochs")
    assert [each.split()[0] for each in still_said(models)] == ["half", "gone"]  # nothing says what is chance
    assert still_said([ModelReport("x", "unlearned", evaluation(0.5, 0.5))]) == []  # a suite without key facts


def test_terminal_takes_names_as_they_are() -> None:
    console = Console(width=140, record=True, file=StringIO())
    console.print(Comparison([ModelReport("[red]x[/red]", "unlearned", evaluation(0.5, 0.5))]))
    assert "[red]x[/red]" in console.export_text()


def test_terminal_shows_comparisons_and_what_has_no_column(models: list[ModelReport]) -> None:
    console = Console(file=StringIO(), width=120)
    attacked = models[0].evaluation.model_copy(update={"comparisons": {"privleak": figure(-42.5, -60, -20)}})
    console.print(Comparison([replace(models[0], evaluation=attacked), models[1]]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "FE ↑" in text
    row = next(line for line in text.splitlines() if "privleak" in line)
    assert "-42.500" in row
    assert "–" in row  # the other model has none

    console = Console(file=StringIO(), width=120)
    without = models[0].evaluation.model_copy(update={"aggregates": {}})
    console.print(Comparison([replace(models[0], evaluation=without)]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "FE ↑" not in text  # a suite without aggregates
    assert "retain rouge" in text


def test_the_page_has_a_table_of_comparisons(models: list[ModelReport], tmp_path: Path) -> None:
    attacked = models[0].evaluation.model_copy(update={"comparisons": {"mia_min_k": figure(0.875, 0.8, 0.9)}})
    page = build([replace(models[0], evaluation=attacked), models[1]], tmp_path / "report.html")
    [table] = [table for table in page.tables if any("Min-K% attack, AUC" in cell for cell in table[0])]
    assert "0.875" in table[1][1]
    assert "0.800 – 0.900" in " ".join(table[1][1].split())
    assert not any("Min-K%" in cell for each in build(models, tmp_path / "r.html").tables for cell in each[0])


def test_differences_in_the_terminal() -> None:
    console = Console(file=StringIO(), width=120)
    differences = Differences(
        suite="tofu",
        sets={"forget": {"rouge": Difference(-0.125, -0.25, -0.01, 0.003, 0.02, 0.012, 38, 2)}},
        comparisons={"mia_loss": Difference(None, None, None, None, None, None, 0, 9)},
        aggregates={},
    )
    console.print(differences_table(differences))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in text.splitlines() if "forget rouge" in line)
    for shown in ("-0.1250", "-0.250 to -0.010", "0.003", "0.02", "0.012", "38 (2 not)"):
        assert shown in row
    assert "0 (9 not)" in text


def test_a_narrow_terminal_gets_whole_figures_and_no_intervals() -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(Comparison([ModelReport("ME+GD", "unlearned", evaluation(0.64, 0.5), method="ME+GD")]))
    text = console.export_text()
    assert text.count("ME+GD") == 1  # a method that the name tells already takes no column
    assert "0.640" in text
    assert "…" not in text
    assert "0.61–0.67" not in text
