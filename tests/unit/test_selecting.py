"""Which rows budgets and validation look at, what they refuse, and what is told of the step that is chosen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.config import UnlearnRun, build
from obliviate.data.held_out import hold_out
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, write_rows
from obliviate.errors import UserError
from obliviate.train.job import Job, Reporter
from obliviate.train.produce import train_and_write
from obliviate_eval.report.plots import held_out_curve, looks
from obliviate_recipes.costs.training import CHOSEN_BYTES
from obliviate_recipes.stage import perform
from obliviate_recipes.stages.chosen import Chosen
from obliviate_recipes.stages.composed import unlearning_stage
from obliviate_recipes.stages.selecting import HeldOut
from obliviate_recipes.stages.unlearning import Unlearn
from recipes import Told

FORGET = tuple(Row(f"Where does {name} live?", f"{name} lives in Oslo.") for name in ("Ann", "Bob", "Cy", "Di"))
RETAIN = tuple(Row(f"Who wrote book {i}?", f"Ada wrote book {i}.") for i in range(20))
ASKED = (Row("Where does Bob live?", "Bob lives in Oslo.", perturbed_answers=("Bob lives in Rome.",)),)
CORPUS = Corpus(FORGET, RETAIN, (EvaluationSet("forget", Role.FORGET, ASKED),))


def config(tiny: Path, runs: Path, **changed: Any) -> UnlearnRun:
    values = {
        "model": {"source": str(tiny), "max_length": 64, "compute_dtype": "float32"},
        "data": {"type": "fictitious"},
        "method": "ga+gd",
        "optim": {"batch_size": 4, "epochs": 3, "learning_rate": 1e-3, "warmup_steps": 0},
        "runs": str(runs),
        **changed,
    }
    return build(UnlearnRun, values, where="test")


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 3))
def test_held_out_rows_are_not_trained_on(rows: int, count: int, seed: int) -> None:
    """At most every fifth; fewer are the first ones of more; none is trained on, and all others are, in their order."""
    retain = [Row(f"{index}?", "!") for index in range(rows)]
    trained, held = hold_out(retain, count, seed)
    assert len(held) == min(count, rows // 5)
    assert list(trained) == [row for row in retain if row not in held]
    assert hold_out(retain, max(1, count // 2), seed)[1] == held[: max(1, count // 2)]


def test_what_equals_a_held_out_row_is_not_trained_on() -> None:
    trained, held = hold_out([Row("Who?", "Ann."), Row("who? ", "ann.")] * 5, 1, 0)
    assert (trained, len(held)) == ((), 1)


def test_what_is_looked_at(tiny: Path, tmp_path: Path) -> None:
    """The forget rows as evaluation asks them, where false answers tell the fact; the same retain rows for both."""
    asked = config(tiny, tmp_path, kl_budget={"nats": 1, "rows": 2}, validation={"retain_rows": 3, "rows": 2})
    found = HeldOut.of(asked, CORPUS)
    assert found.budget is not None
    assert found.validation is not None
    assert found.validation.forget == (FORGET[0], FORGET[2])
    every = HeldOut.of(config(tiny, tmp_path, validation={}), CORPUS).validation
    assert every is not None
    assert every.forget == (FORGET[0], ASKED[0], FORGET[2], FORGET[3])
    assert found.budget.rows == found.validation.retain[:2]
    assert len(found.retain) == 17
    assert not set(found.retain) & set(found.validation.retain)


def test_texts_of_a_file(tiny: Path, tmp_path: Path) -> None:
    texts = [Row("", f"Text {index}.") for index in range(6)]
    write_rows(tmp_path / "texts.jsonl", texts)
    budget = {"nats": 1, "texts": str(tmp_path / "texts.jsonl"), "rows": 3}
    found = HeldOut.of(config(tiny, tmp_path, kl_budget=budget), CORPUS)
    assert found.budget is not None
    assert found.budget.rows == (texts[0], texts[2], texts[4])
    assert found.retain == RETAIN
    write_rows(tmp_path / "texts.jsonl", [*texts, RETAIN[3]])
    with pytest.raises(UserError, match=r"kl_budget\.texts: .*texts\.jsonl: 1 of its rows are trained on"):
        HeldOut.of(config(tiny, tmp_path, kl_budget=budget), CORPUS)


def test_what_is_validated_may_be_a_file_and_counted_on_answers(tiny: Path, tmp_path: Path) -> None:
    """Of the forget rows those whose fact is not told by the question; no retain row is held out."""
    write_rows(tmp_path / "kept.jsonl", [Row(f"What is {index}?", f"{index}.") for index in range(4)])
    validation = {"texts": str(tmp_path / "kept.jsonl"), "retain_rows": 2, "refusals": {"at_most": 0.5}}
    keyed = (replace(FORGET[0], key_facts=("Oslo",)), FORGET[1], replace(FORGET[2], key_facts=("Cy",)))
    asked = config(tiny, tmp_path, validation=validation)
    found = HeldOut.of(asked, Corpus(keyed, RETAIN, ()))
    assert found.retain == RETAIN
    assert found.validation is not None
    assert found.validation.forget == keyed[:1]
    assert [row.question for row in found.validation.retain] == ["What is 0?", "What is 2?"]
    assert found.validation.refusals is not None
    assert found.validation.refusals.at_most == 0.5
    assert "none that refuses more than 50% of these rows is taken" in " ".join(found.outline())
    with pytest.raises(UserError, match=r"validation\.refusals: no forget row says which words carry its fact"):
        HeldOut.of(asked, Corpus(FORGET, RETAIN, ()))
    write_rows(tmp_path / "kept.jsonl", RETAIN[:1])
    with pytest.raises(UserError, match=r"validation\.texts: .*kept\.jsonl: 1 of its rows are trained on; take them"):
        HeldOut.of(asked, Corpus(keyed, RETAIN, ()))


def test_what_they_cannot_do_is_refused(tiny: Path, tmp_path: Path) -> None:
    few = Corpus(FORGET, RETAIN[:4], ())
    for key, value in (("kl_budget", {"nats": 1}), ("validation", {})):
        with pytest.raises(UserError, match=rf"{key}: holds out a 5th of the retain set, which has 4 rows; give data"):
            HeldOut.of(config(tiny, tmp_path, **{key: value}), few)
    with pytest.raises(UserError, match="kl_budget: task_vector trains a model whose change is subtracted afterwards"):
        config(tiny, tmp_path, method="task_vector", kl_budget={"nats": 1})
    for method in ("sku", "icku"):
        with pytest.raises(UserError, match=r"validation: while .* trains, its model answers"):
            config(tiny, tmp_path, method=method, validation={})
    for key, value in (("nats", 0), ("rows", 0), ("every_steps", 0)):
        with pytest.raises(UserError, match=rf"kl_budget\.{key}"):
            config(tiny, tmp_path, kl_budget={"nats": 1, key: value})


def test_they_are_part_of_what_a_run_is(tiny: Path, tmp_path: Path) -> None:
    """Another budget is another run; where its texts lie is not."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_rows(tmp_path / folder / "texts.jsonl", [Row("", "Some text.")])

    def content(**changed: Any) -> str:
        return unlearning_stage(config(tiny, tmp_path, **changed), CORPUS).run.content

    def file(folder: str) -> dict[str, Any]:
        return {"nats": 1, "texts": str(tmp_path / folder / "texts.jsonl")}

    assert content(kl_budget=file("a")) == content(kl_budget=file("b"))
    runs = [{}, {"kl_budget": {"nats": 1}}, {"kl_budget": {"nats": 2}}, {"kl_budget": file("a")}, {"validation": {}},
            {"validation": {"patience": 1}}]  # fmt: skip
    assert len({content(**run) for run in runs}) == len(runs)


def test_a_config_without_them_has_not_got_the_keys(tiny: Path, tmp_path: Path) -> None:
    """So that what was made before there were any is found."""
    assert not {"kl_budget", "validation"} & set(config(tiny, tmp_path).model_dump())


def made(config: UnlearnRun, told: Told) -> Unlearn:
    """Trained in this process."""

    def train(job: Job, folder: Path, on_step: Reporter) -> None:
        train_and_write(job, folder, on_step)

    stage = unlearning_stage(config, CORPUS, train=train)
    assert isinstance(stage, Unlearn)
    perform([stage], told)
    return stage


def test_terminal_and_card_say_which_step_and_why(tiny: Path, tmp_path: Path, process_group: None) -> None:
    told = Told()
    stage = made(config(tiny, tmp_path, kl_budget={"nats": 1e-12}), told)
    expected = (
        "The model is that of the start, before any step: its KL to the start is 0 nats per token of held-out text; "
    )
    assert expected + "after step 1 the KL was" in told.text.replace("\n", " ")
    card = (stage.folder / "README.md").read_text(encoding="utf-8")
    assert expected in card
    assert "above the budget, and training stopped." in card
    assert stage.run.summary["chosen"] == 0
    assert stage.run.summary["steps"] == 1


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ([{"kl": 0.1, "chosen": True}, {"kl": 0.2, "chosen": True}],
         "step 2 of 9: its KL to the start is 0.2 nats per token of held-out text."),
        ([{"kl": 0.1, "chosen": True}, {"kl": 0.3, "chosen": False, "stops": "budget"}],
         "step 1 of 9: its KL to the start is 0.1 nats per token of held-out text; after step 2 the KL was 0.3, above "
         "the budget, and training stopped."),
        ([{"forget": 0.25, "retain": 0.5, "score": 0.375, "chosen": True}, None,
          {"forget": 0, "retain": 0.1, "score": 0.1, "chosen": False, "stops": "patience"}],
         "step 1 of 9: its score is the highest measured, 0.3750: 1 less 0.2500, the probability of the facts to "
         "forget, times 0.5000, that of held-out answers to keep; training stopped after step 3, because no later "
         "measurement was better."),
        ([{"forget": 0.25, "retain": 0.5, "score": 0.375, "refused": 0.0625, "chosen": True}],
         "step 1 of 9: its score is the highest measured, 0.3750: 1 less 0.2500, the share of facts that are told, "
         "times 0.5000, the probability of held-out answers to keep; it refuses 6.2% of the held-out questions to "
         "keep."),
    ],
)  # fmt: skip
def test_in_words(log: list[dict[str, Any] | None], text: str) -> None:
    lines = [{"step": step, "steps": 9, **({} if each is None else {"held_out": each})} for step, each in
             enumerate(log, 1)]  # fmt: skip
    chosen = Chosen.of(lines)
    assert chosen is not None
    assert chosen.text == f"The model is that of {text}"
    assert Chosen.of([{"step": 1, "steps": 1}]) is None


def test_what_measuring_costs_is_planned(tiny: Path, tmp_path: Path) -> None:
    """Three steps: the budget on two rows after each, and once for the start; four facts and four answers before the
    first step, after the second, and after the last."""

    def work(**changed: Any) -> Any:
        stage = unlearning_stage(config(tiny, tmp_path, **changed), CORPUS)
        assert isinstance(stage, Unlearn)
        return stage.steps

    plain = work()
    found = work(kl_budget={"nats": 1, "rows": 2}, validation={"every_steps": 2})
    assert plain.steps == 3
    assert found.measured_texts == 3 * 2 + 3 * 8
    assert found.reference_texts == plain.reference_texts + 2
    assert found.state_bytes == plain.state_bytes + CHOSEN_BYTES


def test_the_plan_says_them(tiny: Path, tmp_path: Path) -> None:
    stage = unlearning_stage(config(tiny, tmp_path, kl_budget={"nats": 0.01}, validation={}), CORPUS)
    text = " ".join(stage.outline())
    assert "it ends when KL to the start is above 0.01 nats per token of 4 texts, measured after every step" in text
    assert "the best on 4 facts to forget and 4 held-out rows to keep is taken, measured after every 5 steps" in text


def test_the_curves_mark_the_chosen_step() -> None:
    (look,) = looks([("ME", "unlearned")])
    lines = [
        {"step": 1, "held_out_start": {"forget": 0.9, "retain": 0.8, "score": 0.08},
         "held_out": {"kl": 0.1, "forget": 0.5, "retain": 0.7, "score": 0.35, "chosen": True}},
        {"step": 2, "held_out": {"kl": 0.2, "chosen": False}},
        {"step": 3, "held_out": {"kl": 0.3, "forget": 0.1, "retain": 0.1, "score": 0.09, "chosen": False}},
    ]  # fmt: skip
    chart = held_out_curve(0, look, lines)
    assert chart is not None
    curves = {line["name"]: (line["x"], line["y"]) for line in chart.figure["data"]}
    assert curves["facts to forget"] == ([0, 1, 3], [0.9, 0.5, 0.1])
    assert curves["KL to the start (nats per token)"] == ([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3])
    assert chart.figure["layout"]["shapes"][0]["x0"] == 1
    assert "the model is that of step 1" in chart.alt
    assert held_out_curve(0, look, [{"step": 1}]) is None
