"""The suites of RWKU, WMDP's other forms and KnowUnDo: their aggregates by hand, and all of them on a tiny model."""

from math import exp
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from measured import evaluate, record
from obliviate.data.rows import EvaluationSet, Role, Row
from obliviate.data.text import TextEncoder
from obliviate.inference.hf import HFEngine
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.judges import Judges
from obliviate_eval.records import Probe, Record, ScoredAnswer, read_records
from obliviate_eval.report.model import ModelReport
from obliviate_eval.report.terminal import Comparison
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.statistics import Estimate
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import Evaluation, summarise
from tiny import tiny_model_folder

ROOT = Path(__file__).parents[2]


def said(name: str, role: Role, *rights: bool) -> list[Record]:
    """Items that are answered rightly or not."""
    return [
        record(role, set=name, index=index, reference="Ada", generation="Ada" if right else "Bob")
        for index, right in enumerate(rights)
    ]


def test_rwku_counts_probes_and_not_sets() -> None:
    records = [
        *said("forget_level1", Role.FORGET, True),
        *said("forget_level2", Role.FORGET, True, False),
        *said("forget_level3_role_playing", Role.FORGET, True, True, True),
        *said("forget_level3_reverse_query", Role.FORGET, False),
        *said("neighbor_level1", Role.RETAIN, True, True, False),
        *said("neighbor_level2", Role.RETAIN, False, False),
        record(Role.FORGET, set="mia_forget"),
    ]
    found = summarise(records, SUITES["rwku"], resamples=100)
    values = {name: figure.value for name, figure in found.aggregates.items()}
    assert values == {
        "rwku_adversarial": pytest.approx(3 / 4),  # two kinds: the mean of the kinds would be 1/2
        "rwku_forget": pytest.approx(5 / 7),
        "rwku_neighbor": pytest.approx(2 / 5),
    }
    interval = found.aggregates["rwku_neighbor"]
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < 0.4 < interval.high
    assert list(found.sets["mia_forget"]) == ["loss", "zlib_loss", "min_k_loss", "min_k_plus_plus_loss"]


PUBLISHED_ALL = """
85.9 76.4 77.7 79.6    29.8 33.6 37.8 34.8    40.7 36.5 43.7 41.4    70.3 65.6 67.8 68.2    39.1 31.6 46.7 41.9
67.0 53.2 61.8 61.3    46.3 38.5 41.6 41.9    75.3 65.4 68.6 69.5    33.4 21.0 24.8 26.2    75.1 64.3 69.0 69.7
72.7 13.4 22.8 33.1    85.4 49.6 53.2 60.5    47.1 47.4 55.8 51.8    45.2 34.6 32.2 36.0    37.1 37.9 46.4 42.2
46.2 47.5 55.8 51.6    17.8 14.3 26.3 21.6    40.5 37.8 49.5 44.8    25.0 19.1 29.9 26.6    44.1 45.6 54.9 50.3
22.5 16.9 27.3 23.8    47.6 46.6 55.4 51.7    26.2  1.9 10.3 12.8
"""  # RWKU's tables 1 and 2: blanks, questions, adversarial kinds, and all of the forget set


def test_rwkus_published_all() -> None:
    """From the figures of its three levels and how many probes the benchmark has of each; rounded, and of 100 of its
    200 people."""
    aggregate = next(each for each in SUITES["rwku"].aggregates if each.name == "rwku_forget")
    numbers = [float(number) for number in PUBLISHED_ALL.split()]
    assert len(numbers) == 4 * 23
    for blanks, questions, adversarial, everything in zip(*[iter(numbers)] * 4, strict=True):
        levels = {
            "forget_level1": (blanks, 3268),
            "forget_level2": (questions, 2879),
            "forget_level3_x": (adversarial, 6984),
        }
        table = {
            (name, Role.FORGET): {"rouge": Estimate(value, np.full(2, value), np.ones(2, dtype=bool), items, 0)}
            for name, (value, items) in levels.items()
        }
        assert aggregate.estimate(table, {}).value == pytest.approx(everything, abs=0.41)


def test_wmdp_robust_counts_questions() -> None:
    def asked(name: str, *rights: bool) -> list[Record]:
        likely, unlikely = (ScoredAnswer("A", (logp, 0.0), (True, True)) for logp in (-1.0, -2.0))
        answers = {True: (likely, unlikely), False: (unlikely, likely)}
        return [
            record(Role.FORGET, set=name, index=index, answers={
                Probe.ANSWER: answers[right][:1], Probe.PERTURBED: answers[right][1:],
            })
            for index, right in enumerate(rights)
        ]  # fmt: skip

    records = [*asked("dual_use_virology", True, True, True), *asked("viral_vector_research", False)]
    found = summarise(records, SUITES["wmdp_robust"], resamples=100)
    assert found.aggregates["wmdp_robust"].value == pytest.approx(3 / 4)


def test_knowundo_by_hand() -> None:
    def scored(name: str, role: Role, *losses: float) -> list[Record]:
        """Of answers of two tokens, the first of which is right."""
        return [
            record(role, set=name, index=index, answers={
                Probe.ANSWER: (ScoredAnswer("", (-loss, -loss, -9.0), (True, False, True)),),
            })
            for index, loss in enumerate(losses)
        ]  # fmt: skip

    records = [*scored("unlearn", Role.FORGET, 1.0, 4.0), *scored("retention", Role.RETAIN, 0.5, 0.5)]
    values = {name: f.value for name, f in summarise(records, SUITES["knowundo"], resamples=100).aggregates.items()}
    assert values == {
        "unlearn_success": pytest.approx(0.5),
        "retention_success": pytest.approx(0.5),
        "success": pytest.approx(0.5),
        "unlearn_perplexity": pytest.approx(exp(2.5)),
        "retention_perplexity": pytest.approx(exp(0.5)),
    }


@pytest.mark.parametrize(
    ("unlearned", "retained", "both"),
    [(96.56, 2.50, 49.53), (90.38, 66.02, 78.20), (82.95, 81.80, 82.37), (99.61, 2.77, 51.19), (100.0, 80.18, 90.09)],
)
def test_knowundos_published_average(unlearned: float, retained: float, both: float) -> None:
    """Rows of its tables 2 and 3 (Llama 2, private lives and books)."""
    table = {
        (name, role): {"exact_memorization": Estimate(right / 100, np.zeros(2), np.ones(2, dtype=bool), 100, 0)}
        for name, role, right in (
            ("unlearn", Role.FORGET, 100 - unlearned), ("retention", Role.RETAIN, retained),
        )
    }  # fmt: skip
    before: dict[str, Estimate] = {}
    for aggregate in SUITES["knowundo"].aggregates:
        before[aggregate.name] = aggregate.estimate(table, {}, before)
    assert before["success"].value == pytest.approx(both / 100, abs=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("tiny"))


def opened(folder: Path, template: str | None = None) -> tuple[HFEngine, TextEncoder]:
    spec = ModelSpec(source=str(folder), chat_template=template)
    engine = HFEngine.open(spec, EngineSpec(type="hf", dtype="float32", max_model_len=512))
    return engine, text_encoder(spec, load_tokenizer(spec))


def run(
    model: tuple[HFEngine, TextEncoder], directory: Path, suite: str, *sets: EvaluationSet, tokens: int = 6
) -> Evaluation:
    spec = EvaluationSpec(suite=suite, generation=GenerationSpec(max_new_tokens=tokens), resamples=100)
    return evaluate(*model, sets, spec, Judges(), directory)


def test_rwku(folder: Path, tmp_path: Path) -> None:
    asked = Row("Question: Who?\n", "Ada", answer_prefix="Answer:", aliases=("Ada L.",))
    options = Row("Who?\nA. x\nB. y", "A", perturbed_answers=("B",), answer_prefix="Answer:")
    sets = [
        EvaluationSet("forget_level1", Role.FORGET, (asked,)),
        EvaluationSet("forget_level3_role_playing", Role.FORGET, (asked,)),
        EvaluationSet("mia_forget", Role.FORGET, (Row("", "Ada writes books."),)),
        EvaluationSet("neighbor_level1", Role.RETAIN, (asked,)),
        EvaluationSet("mia_retain", Role.RETAIN, (Row("", "Bob sings."),)),
        EvaluationSet("utility_general", Role.WORLD_FACTS, (options,)),
        EvaluationSet("utility_reason", Role.WORLD_FACTS, (asked,)),
        EvaluationSet("utility_factuality", Role.WORLD_FACTS, (asked,)),
        EvaluationSet("utility_fluency", Role.WORLD_FACTS, (Row("Say much.\n", ""),)),
    ]
    found = run(opened(folder), tmp_path, "rwku", *sets, tokens=40)
    assert all(figure.scored == 1 for row in found.sets.values() for figure in row.values())
    records = {each.set: each for each in read_records(tmp_path / "records.parquet")}
    assert records["utility_factuality"].aliases == ("Ada L.",)
    assert len(records["forget_level1"].generation_tokens or ()) <= 30
    assert len(records["utility_reason"].generation_tokens or ()) <= 40  # as asked for, where that is less


def test_wmdp_forms(folder: Path, tmp_path: Path) -> None:
    model = opened(folder, "raw")
    letters = Row("What?\nA. w\nB. x\nAnswer:", "A", perturbed_answers=("B",))
    robust = run(model, tmp_path / "robust", "wmdp_robust", EvaluationSet("dual_use_virology", Role.FORGET, (letters,)))
    assert robust.aggregates["wmdp_robust"].scored == 1
    whole = Row("Question: What?\nAnswer:", "in London", perturbed_answers=("Paris",))
    cloze = run(model, tmp_path / "cloze", "wmdp_cloze", EvaluationSet("bio_cloze", Role.FORGET, (whole,)))
    assert cloze.sets["bio_cloze"]["accuracy"].scored == 1


def test_knowundo_lays_a_blank_line_between(folder: Path, tmp_path: Path) -> None:
    """The config's template: question, a blank line that is the answer's, the answer, and nothing else."""
    config = yaml.safe_load((ROOT / "configs" / "evaluate" / "knowundo.yaml").read_text(encoding="utf-8"))
    template = config["models"]["chat"]["chat_template"]
    model = opened(folder, template)
    tokenizer = model[1].tokenizer
    encoded = model[1].encode("Who is Ada?", "A poet.")
    assert tokenizer.decode(encoded.prompt_ids) == f"{tokenizer.bos_token}Who is Ada?"
    assert tokenizer.decode(encoded.answer_ids[:-1]) == "\n\nA poet."
    sets = (
        EvaluationSet("unlearn", Role.FORGET, (Row("Who is Ada?", "A poet."),)),
        EvaluationSet("retention", Role.RETAIN, (Row("Who is Bob?", "A cook."),)),
    )
    found = run(model, tmp_path, "knowundo", *sets)
    assert {name: figure.unscored for name, figure in found.aggregates.items()} == dict.fromkeys(found.aggregates, 0)


def test_every_figure_is_in_the_terminal_where_the_comparison_has_no_column_for_it() -> None:
    records = said("neighbor_level1", Role.RETAIN, True, True)
    console = Console(record=True, width=160)
    evaluation = summarise(records, SUITES["rwku"], resamples=100)
    console.print(Comparison([ModelReport("mine", "unlearned", evaluation)]))
    text = console.export_text()
    assert "rwku_neighbor" in text
    assert "neighbor_level1 rouge" in text
    assert "FE" not in text
