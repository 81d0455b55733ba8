"""The worst case over forms of asking, item by item: by hand, from rows to records, and on a tiny model."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from measured import answers, record
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.asked import in_forms, suite_of
from obliviate_eval.forget_quality import forget_quality
from obliviate_eval.formats import ask
from obliviate_eval.formats.base import Material
from obliviate_eval.metrics import KnownByAny, KnownOnAverage, MiaLoss
from obliviate_eval.records import FORM, Probe, Record, ScoredAnswer, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.summary import Evaluation, draw, summarise
from obliviate_recipes.attacking import AttackRun
from obliviate_recipes.evaluation import EvaluateRun
from obliviate_recipes.stage import perform
from obliviate_recipes.stages.measure import Measuring
from recipes import Told
from tiny import tiny_model_folder

SPEC = EvaluationSpec(suite="robustness", questions="formats", resamples=200)
TOWNS = ("Lima", "Oslo", "Rome", "Kyiv", "Cork", "Bonn")
YES, NO = "It is Lima.", "No idea."


def row(name: str, town: str, *, false: bool = True) -> Row:
    others = tuple(f"{name} was born in {each}." for each in TOWNS if each != town)
    return Row(f"Where was {name} born?", f"{name} was born in {town}.", perturbed_answers=others if false else ())


FORGET = (row("Ann Lee", "Lima"), row("Bo Ray", "Oslo", false=False), row("Cy Orr", "Rome"))
RETAIN = tuple(row(f"{first} Kept", town) for first in ("Al", "Bea", "Di") for town in TOWNS[:4])
CORPUS = Corpus(
    FORGET,
    RETAIN,
    (EvaluationSet("forget", Role.FORGET, FORGET), EvaluationSet("retain", Role.RETAIN, RETAIN)),
    ("old",),
)


def said(generations: dict[int, str | None], form: str | None = None, role: Role = Role.FORGET) -> list[Record]:
    """Answers to the item of each index, whose fact is Lima."""
    name = "forget" if form is None else f"forget{FORM}{form}"
    key = {Probe.KEY: (ScoredAnswer("Lima", (-1.0,), (True,)),)}
    return [
        record(role, set=name, index=index, question=f"{form} {index}?", generation=text, answers=key)
        for index, text in generations.items()
    ]


def by_any(
    *records: list[Record], comparison: type[KnownByAny | KnownOnAverage] = KnownByAny
) -> tuple[float | None, int, int]:
    found = comparison().estimate(draw([one for of_set in records for one in of_set], 100, 0)).figure()
    return found.value, found.scored, found.unscored


def test_an_item_is_known_that_any_form_brings_out_and_a_form_may_leave_items_out() -> None:
    plain = said({0: NO, 1: NO, 2: YES, 3: NO})
    cloze, polite = said({1: YES, 3: NO}, "cloze"), said({0: NO, 1: NO, 2: NO, 3: NO}, "paraphrase_polite")
    assert by_any(plain, cloze, polite) == (2 / 4, 4, 0)  # items 1 and 2
    # said in 0 of 2, 1 of 3, 1 of 2 and 0 of 3 forms
    mean = (0 + 1 / 3 + 1 / 2 + 0) / 4
    assert by_any(plain, cloze, polite, comparison=KnownOnAverage) == (pytest.approx(mean), 4, 0)


def test_what_asks_for_something_else_does_not_count() -> None:
    plain, none = said({0: NO, 1: NO}), said({0: NO, 1: NO}, "cloze")
    for other in (said({0: YES, 1: YES}, "reverse"), said({0: YES}, "comprehension", Role.RETAIN)):
        assert by_any(plain, none, other) == (0, 2, 0)
    letters = [record(Role.FORGET, set=f"forget{FORM}true_false", index=0, generation=None)]
    assert by_any(plain, none, letters) == (0, 2, 0)  # without an answer, because none was asked for


def test_an_item_without_an_answer_in_one_form_is_not_known_to_be_forgotten() -> None:
    plain, cloze = said({0: NO, 1: YES, 2: NO}), said({0: None, 1: YES, 2: NO}, "cloze")
    for comparison in (KnownByAny, KnownOnAverage):
        assert by_any(plain, cloze, comparison=comparison) == (1 / 2, 2, 1)


def test_without_forms_there_is_no_worst_case() -> None:
    assert by_any(said({0: YES, 1: NO})) == (None, 0, 2)
    assert by_any() == (None, 0, 0)


def test_the_interval_resamples_items_with_all_of_their_forms() -> None:
    """Each item is said by one of two forms, which one differs: whatever is drawn, all of it is known."""
    plain = said(dict.fromkeys(range(10), NO))
    forms = [
        said({i: YES if i % 2 == odd else NO for i in range(10)}, name)
        for odd, name in enumerate(("cloze", "few_shot"))
    ]
    samples = draw([*plain, *forms[0], *forms[1]], 100, 0)
    found = KnownByAny().estimate(samples).figure()
    assert (found.value, found.low, found.high) == (1, 1, 1)
    mean = KnownOnAverage().estimate(samples).figure()
    assert (mean.value, mean.low, mean.high) == pytest.approx((1 / 3,) * 3)


def test_each_form_is_measured_as_its_format_says() -> None:
    suite = suite_of(SPEC)
    asked = ask(Material(tuple(row(f"{one} Ng", town) for one in TOWNS for town in TOWNS[:2]), RETAIN))
    assert len(asked.sets) > 25
    for each in asked.sets:
        found = tuple(metric.type for metric in suite.metrics_of(f"forget{FORM}{each.name}", each.role))
        assert set(found) == set(asked.formats[each.name].metrics), each.name
    assert {metric.type for metric in suite.metrics_of("forget", Role.FORGET)} == {
        "key_said", "key_probability", "probability", "extraction_strength", "rouge",
    }  # fmt: skip


def test_rows_that_a_form_leaves_out_are_told_and_the_others_keep_their_index() -> None:
    found = in_forms(CORPUS, lambda each: "Ann" not in each.question or not each.history)
    sets = {each.name: each for each in found.evaluation}
    assert (sets["forget"], sets["retain"]) == CORPUS.evaluation
    assert sets[f"forget{FORM}true_false"].indices == (0, 2)
    assert sets[f"forget{FORM}think_again"].indices == (1, 2)
    assert found.warnings[0] == "old"
    assert (
        "forget as true_false: 1 of 3 rows are left out: 1 without enough false answers (perturbed_answer)"
        in found.warnings
    )
    assert "forget as think_again: 1 of 3 rows are left out: too long for the model" in found.warnings
    assert found.evaluation_content != CORPUS.evaluation_content


def test_an_item_that_is_asked_again_is_no_second_item() -> None:
    form = f"forget{FORM}cloze"
    assert MiaLoss().asks("forget", Role.FORGET)
    assert not MiaLoss().asks(form, Role.FORGET)

    def of_set(name: str) -> list[Record]:
        scored = {Probe.PARAPHRASED: answers(-1), Probe.PERTURBED: answers(-2)}
        return [record(Role.FORGET, set=name, answers=scored)]

    quality = forget_quality([*of_set("forget"), *of_set(form)], of_set("forget"))
    assert quality is not None
    assert quality.scored == 1
    # What is read under a text says nothing of whether the model still speaks.
    scores = {f"forget{FORM}comprehension": {"rouge": 0.5}, "retain": {"probability": 0.001}}
    records = [record(Role.RETAIN, set=name, logged=logged) for name, logged in scores.items()]
    found = summarise(records, suite_of(SPEC), resamples=100)
    assert found.sets[f"forget{FORM}comprehension"]["rouge"].value == 0.5
    assert found.collapsed


def test_the_suite_robustness_asks_in_every_form_where_nothing_else_is_said() -> None:
    def questions(**evaluation: str) -> str:
        config = {"models": {"a": {"source": "a"}}, "data": {"type": "tofu"}, "evaluation": evaluation}
        return EvaluateRun.model_validate(config).evaluation.questions

    assert questions(suite="robustness") == "formats"
    assert questions(suite="robustness", questions="given") == "given"
    assert questions(suite="tofu") == "given"
    assert questions(suite="closer_look", questions="formats") == "formats"
    with pytest.raises(ValidationError, match="formats needs the metric key_said, which the suite does not have"):
        questions(suite="wmdp", questions="formats")
    attack = {
        "model": {"source": "a"}, "models": {"b": {"source": "b"}}, "control": "none", "data": {"type": "tofu"},
        "attacks": [{"type": "ask"}], "evaluation": {"suite": "robustness", "questions": "formats"},
    }  # fmt: skip
    with pytest.raises(ValidationError, match="here the attack `ask` asks in every form"):
        AttackRun.model_validate(attack)


def test_on_a_model(tmp_path: Path) -> None:
    """One engine, one run; what does not fit is left out, of that model."""
    model = ModelSpec(source=str(tiny_model_folder(tmp_path / "model")), max_length=64)
    spec = SPEC.model_copy(
        update={
            "engine": EngineSpec(type="hf", dtype="float32", max_model_len=256),
            "generation": GenerationSpec(max_new_tokens=2),
        }
    )
    measuring = Measuring(CORPUS, spec, None, str(tmp_path / "runs"), within=True)
    stage, told = measuring.figures("tiny", model), Told()
    assert stage.records.model.max_length == 256
    [outline] = [line for line in stage.records.outline() if line.startswith("evaluate tiny with robustness")]
    assert "forget 3, " in outline
    assert "forget as true_false 2, " in outline
    assert "rows are left out: too long for the model" in "\n".join(stage.outline())
    perform([stage], told)
    assert "forget as true_false: 1 of 3 rows are left out" in told.text
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "runs").iterdir()) == ["evaluate", "records"]

    found = Evaluation.read(stage.run.directory / "metrics.json")
    known = found.comparisons["known_by_any"]
    assert (known.scored, known.unscored) == (2, 1)  # nothing tells which words are the fact of a row alone
    assert known.value is not None
    assert known.value >= (found.comparisons["known_on_average"].value or 0) >= 0
    records = read_records(stage.records.run.directory / "records.parquet")
    by_hand = KnownByAny().estimate(draw(records, 200, 0)).figure()
    assert by_hand.value == known.value
    assert {r.index for r in records if r.set == "forget as true_false"} == {0, 2}
    assert found.sets["forget as true_false"]["accuracy"].scored == 2
    assert set(found.sets["retain"]) == {"probability"}
