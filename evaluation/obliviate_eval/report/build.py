"""One HTML file that compares models: figures, charts, every answer side by side, and how to reproduce each.

The file needs no network and no server. Its content security policy names the two scripts it carries by their hashes,
so that text of a model can neither run nor load anything, whatever it says.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from obliviate.data.rows import Role
from obliviate.runs import write_whole
from obliviate_eval.metrics import COMPARISON_TYPES, METRIC_TYPES
from obliviate_eval.records import Probe
from obliviate_eval.report.model import Kind, ModelReport
from obliviate_eval.report.plots import Axis, Chart, Look, held_out_curve, looks, set_bars, trade_off, training_curve
from obliviate_eval.statistics import Figure

HERE = Path(__file__).parent
KIND_TITLES: Mapping[Kind, str] = {
    "original": "before learning",
    "target": "before unlearning",
    "retain": "never saw the forget set",
    "unlearned": "unlearned",
}
LABELS = {
    "key_said": "Facts said",
    "key_probability": "Fact probability",
    "forget_efficacy": "Forget efficacy",
    "model_utility": "Model utility",
    "tofu_model_utility": "TOFU utility",
    "memorization": "Memorisation score",
    "rouge": "ROUGE-L recall",
    "similarity": "Cosine similarity",
    "exact_memorization": "Exact memorisation",
    "verbatim_memorization": "Verbatim memorisation",
    "knowledge_memorization": "Knowledge memorisation",
    "leak_at_k": "leak@k",
    "leak_bound": "leak@k, exact bounds",
    "worst_question": "Worse of two wordings",
    "distinct_n": "distinct-n",
    "self_bleu": "Self-BLEU",
    "mia_loss": "Loss attack, AUC",
    "mia_zlib": "Zlib attack, AUC",
    "mia_min_k": "Min-K% attack, AUC",
    "mia_min_k_plus_plus": "Min-K%++ attack, AUC",
    "mia_reference": "Reference attack, AUC",
    "mia_gradnorm": "Gradient-norm attack, AUC",
    "judged": "Judge says yes",
    "judge_agreement": "Judge and NLI model agree",
    "judge_kappa": "Judge and NLI model, kappa",
    "privleak": "PrivLeak, %",
    "rel_diff": "Relative difference, %",
}


@dataclass(frozen=True)
class Column:
    """Of a table: one figure a model (None: the model has none), in the order of the models."""

    title: str
    hint: str
    figures: Sequence[Figure | None]
    best: frozenset[int] = frozenset()  # the unlearned models that do best, by index


@dataclass(frozen=True)
class TextTable:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """Charts and tables of a job's own, between the summary and the metrics."""

    id: str
    title: str
    lead: str
    charts: Sequence[Chart]
    tables: Sequence[TextTable] = ()


def build_report(
    title: str, models: Sequence[ModelReport], notes: Sequence[str], path: Path, sections: Sequence[Section] = ()
) -> None:
    """Write the report whole. It holds every record's question and answers: as confidential as the data itself."""
    look = looks([(model.name, model.kind) for model in models])
    charts, questions = _charts(models, look), _questions(models)
    script = (HERE / "report.js").read_text(encoding="utf-8")
    plotly_hash, plotly = plotly_script()
    html = (
        environment()
        .get_template("template.html.j2")
        .render(
            title=title,
            notes=notes,
            models=list(zip(models, look, strict=True)),
            kinds=KIND_TITLES,
            suites=list(dict.fromkeys(model.evaluation.suite for model in models)),
            aggregates=_aggregates(models),
            qualities=[model.evaluation.forget_quality for model in models],
            sets={name: (_role(models, name), _metrics(models, name)) for name in sets_of(models)},
            comparisons=_comparisons(models),
            charts=charts,
            sections=sections,
            data={
                "charts": {
                    chart.id: chart.figure
                    for group in (*charts.values(), *(section.charts for section in sections))
                    for chart in group
                },
                "models": [{"name": each.name, "colour": each.colour} for each in look],
            },
            questions=questions,
            packed=packed(questions),
            style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hashes=[script_hash(script), plotly_hash],
            plotly=plotly,
        )
    )
    write_whole(path, lambda temporary: temporary.write_text(html, encoding="utf-8") and None)


def environment() -> Environment:
    """Of every report: what is put into a page is escaped, and a name that nothing was given for is an error."""
    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    found.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False}
    return found


def report_json(models: Sequence[ModelReport]) -> dict[str, Any]:
    """Every figure of the report and where it comes from, for programs; records and curves stay with their runs."""
    return {
        "models": [
            {
                "name": model.name,
                "kind": model.kind,
                "method": model.method,
                "evaluation": model.evaluation.model_dump(mode="json"),
                "provenance": dict(model.provenance),
            }
            for model in models
        ]
    }


def label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " ").capitalize())


def sets_of(models: Sequence[ModelReport]) -> list[str]:
    """Every set's name: what should be forgotten first, then in the order of the roles."""
    names = _union(model.evaluation.sets for model in models)
    return sorted(names, key=lambda name: list(Role).index(_role(models, name)))


def _role(models: Sequence[ModelReport], name: str) -> Role:
    return next(model.evaluation.roles[name] for model in models if name in model.evaluation.roles)


def _union(mappings: Iterable[Iterable[str]]) -> list[str]:
    """The keys of all, in the order of their first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _aggregates(models: Sequence[ModelReport]) -> list[Column]:
    """The order a reader asks in: does it say the facts, did it forget, then what it kept."""
    names = _union(model.evaluation.aggregates for model in models)
    columns = _facts_said(models)
    for name in sorted(names, key=lambda name: name != "forget_efficacy"):
        figures = [model.evaluation.aggregates.get(name) for model in models]
        columns.append(Column(f"{label(name)} ↑", "higher is better", figures, _best(models, figures)))
    return columns


def _facts_said(models: Sequence[ModelReport]) -> list[Column]:
    """Of the first set that should be forgotten."""
    name = next((each for each in sets_of(models) if _role(models, each) is Role.FORGET), "")
    figures = [model.evaluation.sets.get(name, {}).get("key_said") for model in models]
    return [Column("Facts said ↓", "share of the forgotten facts that it says", figures)] if any(figures) else []


def _best(models: Sequence[ModelReport], figures: Sequence[Figure | None]) -> frozenset[int]:
    """The unlearned model with the highest value, and those whose interval reaches it. One alone is not a best."""
    reaches = {
        index: (figure.value, figure.value if figure.high is None else figure.high)
        for index, (model, figure) in enumerate(zip(models, figures, strict=True))
        if model.kind == "unlearned" and figure is not None and figure.value is not None
    }
    if len(reaches) < 2:
        return frozenset()
    top = max(value for value, _ in reaches.values())
    return frozenset(index for index, (_, high) in reaches.items() if high >= top)


def _metrics(models: Sequence[ModelReport], name: str) -> list[Column]:
    found = [model.evaluation.sets.get(name, {}) for model in models]
    return [
        Column(label(metric), _title(models, metric), [figures.get(metric) for figures in found])
        for metric in _union(found)
    ]


def _comparisons(models: Sequence[ModelReport]) -> list[Column]:
    found = [model.evaluation.comparisons for model in models]
    return [
        Column(label(name), _title(models, name), [figures.get(name) for figures in found]) for name in _union(found)
    ]


def _title(models: Sequence[ModelReport], name: str) -> str:
    """Of a metric or a comparison. Others' are told with their figures: their code need not be here."""
    if name in METRIC_TYPES:
        return METRIC_TYPES[name].title
    if name in COMPARISON_TYPES:
        return f"{COMPARISON_TYPES[name].title}; {COMPARISON_TYPES[name].direction}"
    return next((model.evaluation.titles[name] for model in models if name in model.evaluation.titles), name)


def _charts(models: Sequence[ModelReport], look: Sequence[Look]) -> dict[str, list[Chart]]:
    """By the section they stand in; a section without a chart is left out of the page."""
    bars = [
        set_bars(name, look, [model.evaluation.sets.get(name, {}) for model in models], labels_of(models, name))
        for name in sets_of(models)
    ]
    curves = [
        draw(index, look[index], model.curve)
        for index, model in enumerate(models)
        for draw in (training_curve, held_out_curve)
    ]
    overview = trade_off(look, forgotten(models), kept(models))
    return {
        "overview": [] if overview is None else [overview],
        "bars": bars,
        "curves": [chart for chart in curves if chart is not None],
    }


def labels_of(models: Sequence[ModelReport], name: str) -> dict[str, str]:
    return {metric: label(metric) for metric in _union(model.evaluation.sets.get(name, {}) for model in models)}


def forgotten(models: Sequence[ModelReport]) -> Axis:
    """Forget efficacy; where no model has it, forget quality, as in TOFU."""
    efficacy = [model.evaluation.aggregates.get("forget_efficacy") for model in models]
    if any(efficacy):
        return Axis("forget efficacy", "Forget efficacy → more forgotten", efficacy, (-0.02, 1.04))
    quality = [
        None
        if found is None
        else Figure(value=found.log10_p, low=None, high=None, scored=found.scored, unscored=found.unscored)
        for found in (model.evaluation.forget_quality for model in models)
    ]
    return Axis("log10 p of forget quality", "Forget quality, log₁₀ p → closer to the gold standard", quality, None)


def kept(models: Sequence[ModelReport]) -> Axis:
    names = _union(model.evaluation.aggregates for model in models)
    name = "model_utility" if "model_utility" in names else "tofu_model_utility"
    figures = [model.evaluation.aggregates.get(name) for model in models]
    return Axis(label(name).lower(), f"{label(name)} → more kept", figures, (-0.04, 1.08))


def _questions(models: Sequence[ModelReport]) -> list[dict[str, Any]]:
    """Every question once, with each model's [answer, probability of the true answer, whether it came to its end]."""
    questions: dict[tuple[str, int, str], dict[str, Any]] = {}
    for index, model in enumerate(models):
        for record in model.records:
            row = questions.setdefault(
                (record.set, record.index, record.question),
                {
                    "set": record.set,
                    "index": record.index,
                    "question": record.question,
                    "truth": record.reference,
                    "answers": [None] * len(models),
                },
            )
            true = record.answers.get(Probe.ANSWER, ())
            row["answers"][index] = [
                record.generation, true[0].probability if true else None, record.generation_finished
            ]  # fmt: skip
    order = {name: place for place, name in enumerate(sets_of(models))}
    return sorted(questions.values(), key=lambda row: (order.get(row["set"], len(order)), row["set"], row["index"]))


@cache
def plotly_script() -> tuple[str, str]:
    """The hash of plotly's script, and the script packed: 2 MB instead of 5. It ships no smaller bundle."""
    script = get_plotlyjs()
    return script_hash(script), _pack(script)


def packed(questions: Sequence[Mapping[str, Any]]) -> str:
    """Ten thousand questions to many models would take a browser seconds, and a hundred megabytes, to read as HTML."""
    return _pack(json.dumps(questions, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _pack(text: str) -> str:
    """Base64 of gzip, as report.js unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def script_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
