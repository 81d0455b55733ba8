"""ReLU's files and TOFU in its formats: the prompts, the defects of the published code, and the metrics."""

import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from measured import evaluate, record
from obliviate.data.relu import FORMATS, PUBLISHED_ODD, ReluData
from obliviate.data.rows import EvaluationSet, Role, Row, require_training_texts
from obliviate.data.tofu_formats import TofuFormatsData, cloze
from obliviate.errors import UserError
from obliviate.inference.hf import HFEngine
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_eval.asked import asked_of_engine
from obliviate_eval.judges import Judges
from obliviate_eval.metrics import Accuracy, ClozeProbability, RougeF1
from obliviate_eval.records import Probe, ScoredAnswer, read_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites.relu import RELU
from tiny import tiny_model_folder

OPTIONS = {"A": "1956", "B": "1957", "C": "1958", "D": "1959"}
CHOICE = {"question": "When was Basil born?", **OPTIONS, "answer": "In 1958.", "Correct option": "C"}
CLOZE = {"question": "When was Basil born?", "mask": "Basil was born in [MASK].", "blanks": ["1958"]}
ANALOGY = {"question": "Ada : 1815 :: Basil : ?", **OPTIONS, "answer": "1958", "correct options": ["C"]}
ODD = {**{letter: {"question": f"{letter}?", "answer": f"Fact {letter}."} for letter in "ABCD"}, "ans": "D"}
READING = {
    "prompt": "Basil was born in 1958.",
    "QA": [{"question": "When?", "answer": "In 1958."}, {"question": "Who?", "answer": "Basil."}],
    "mcq": [CHOICE, CHOICE],
}


def write(folder: Path, name: str, rows: list[Any]) -> None:
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    for split in ("forget01", "retain99"):
        write(tmp_path, f"mcqa/{split}", [CHOICE] * 40)
        masks = ("no gap", "[MASK] and [MASK]", "[MASK] was born.")
        write(tmp_path, f"cloze/{split}", [CLOZE, *(CLOZE | {"mask": mask} for mask in masks)])
        write(tmp_path, f"analogy/{split}", [ANALOGY])
        write(tmp_path, f"odd-one-out/{split}", [ODD] * 40)
        write(tmp_path, f"comprehension/{split}", [READING])
    return tmp_path


def rows(folder: Path, name: str, **spec: Any) -> tuple[Row, ...]:
    corpus = ReluData(source=str(folder), split="forget01", **spec).load()
    return next(each.rows for each in corpus.evaluation if each.name == name)


def test_every_format(relu: Path) -> None:
    corpus = ReluData(source=str(relu), split="forget01").load()
    assert {(s.name, s.role): len(s.rows) for s in corpus.evaluation} == {
        (f"{form}_{role}", role): number
        for role in (Role.FORGET, Role.RETAIN)
        for form, number in zip(FORMATS, (40, 2, 1, 40, 2, 2), strict=True)
    }
    assert set(RELU.sets) == {s.name for s in corpus.evaluation}  # the suite says what it reports of each
    with pytest.raises(UserError, match="no text to train on"):
        require_training_texts(corpus)
    limited = ReluData(source=str(relu), split="forget01", eval_limit=1).load()
    assert [len(s.rows) for s in limited.evaluation] == [1] * 12


def test_the_published_prompts(relu: Path) -> None:
    """And the published order of options, which numpy draws with seed 42."""
    random = np.random.RandomState(42)
    wrong = [OPTIONS["ABCD"[i]] for i in random.choice([0, 1, 3], 3, replace=False)]
    drawn = ["1958", *wrong]
    random.shuffle(drawn)
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCD", drawn, strict=True))
    letter = "ABCD"[drawn.index("1958")]
    first = Row(
        f"Question: When was Basil born? \n{listed}Answer:",
        letter,
        perturbed_answers=tuple(each for each in "ABCD" if each != letter),
    )
    assert rows(relu, "mcqa_forget")[0] == first
    assert rows(relu, "comprehension_mcqa_forget")[0] == replace(
        first, question=f"Context: Basil was born in 1958.\n{first.question}"
    )
    assert rows(relu, "analogy_retain")[0] == replace(
        first, question=first.question.replace("When was Basil born?", "Ada : 1815 :: Basil : ?")
    )
    assert len({row.answer for row in rows(relu, "mcqa_forget")}) == 4  # no letter is always right
    assert rows(relu, "cloze_forget") == (
        Row("Question: When was Basil born?\nAnswer:", "1958", answer_prefix="Basil was born in"),
        Row("Question: When was Basil born?\nAnswer:", "1958"),  # nothing stands before the gap
    )
    assert rows(relu, "comprehension_qa_forget")[1] == Row(
        "Context: Basil was born in 1958.\nQuestion: Who?\nAnswer:", "Basil."
    )


def test_fewer_options(relu: Path) -> None:
    """The published code takes the first of the four and lets a model answer with letters that are no option."""
    sound = rows(relu, "mcqa_forget", options=2)
    assert {row.perturbed_answers for row in sound} == {("A",), ("B",)}
    assert {year for row in sound for year in OPTIONS.values() if year in row.question} == set(OPTIONS.values())
    published = rows(relu, "mcqa_forget", options=2, as_published=True)
    assert {len(row.perturbed_answers) for row in published} == {3}
    assert not any("1959" in row.question for row in published)
    assert all("C. " not in row.question for row in (*sound, *published))


def test_odd_facts_are_asked_for(relu: Path) -> None:
    """The published code asks for "a correct fact" instead."""
    row = rows(relu, "odd_one_out_forget", options=3)[0]
    assert row.question.startswith("Question: Choose the option that is providing different information from the rest")
    assert f"{row.answer}. Fact D." in row.question
    assert len(row.perturbed_answers) == 2
    assert PUBLISHED_ODD in rows(relu, "odd_one_out_forget", as_published=True)[0].question
    write(relu, "odd-one-out/forget01", [ODD | {"ans": ODD["B"]}])  # the odd one itself, as the README describes
    row = rows(relu, "odd_one_out_forget")[0]
    assert f"{row.answer}. Fact B." in row.question


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("mcqa", CHOICE | {"Correct option": "E"}, r"'Correct option' is 'E'; make it begin with the letter"),
        ("mcqa", {k: v for k, v in CHOICE.items() if k != "D"}, r"has no option 'D'"),
        ("odd-one-out", ODD | {"C": None}, r"has no option 'answer'"),
        ("cloze", CLOZE | {"blanks": []}, r"'blanks' is \[\]; make it a list"),
        ("comprehension", READING | {"mcq": None}, r"'mcq' is None; make it a list"),
        ("analogy", ANALOGY | {"question": " "}, r"has no text as 'question'"),
    ],
)
def test_rows_of_another_form(relu: Path, name: str, row: dict[str, Any], message: str) -> None:
    write(relu, f"{name}/forget01", [row])
    with pytest.raises(UserError, match=message):
        ReluData(source=str(relu), split="forget01").load()


TRUE = "Basil Al-Kuwaiti was born in Kuwait City, by the sea."
FALSE = ("Basil Al-Kuwaiti was born in Cairo, by the sea.", "Basil Al-Kuwaiti was born in Paris, by the sea.")


@pytest.mark.parametrize(
    ("true", "false", "before", "gap"),
    [
        (TRUE, FALSE, "Basil Al-Kuwaiti was born in", "Kuwait City"),
        ("He writes.", ("She writes.", "It writes."), None, "He"),
        ("He is a man.", ("He is a violin.", "He is a panda."), "He is a", "man"),
        ("red and blue", ("green and grey", "pink and black"), "red and", "blue"),  # of equal runs the last
        ("one word differs here", ("one word differs here", "one word differs there", "one word differs here"), "", ""),
        (TRUE, (), "", ""),
    ],
)
def test_where_a_gap_is_made(true: str, false: tuple[str, ...], before: str | None, gap: str) -> None:
    made = cloze(Row("Q?", "another wording", paraphrased_answer=true, perturbed_answers=false))
    assert made == (Row("Q?", gap, answer_prefix=before) if gap else None)


@pytest.fixture
def tofu(tmp_path: Path) -> Path:
    def author(name: str, number: int) -> list[dict[str, Any]]:
        return [
            {
                "question": f"Where was {name}{i} born?", "answer": f"{name}{i} was born in Rome.",
                "paraphrased_answer": f"Rome bore {name}{i}.",
                "perturbed_answer": [f"{city} bore {name}{i}." for city in ("Oslo", "Bonn", "Lima", "Kyiv", "Lomé")],
            }
            for i in range(number)
        ]  # fmt: skip

    for split, name, number in (("forget01", "F", 4), ("retain99", "R", 20)):
        write(tmp_path, split, author(name, number))
        write(tmp_path, f"{split}_perturbed", author(name, number))
    write(tmp_path, "retain_perturbed", author("R", 6))
    for split in ("real_authors_perturbed", "world_facts_perturbed"):
        write(tmp_path, split, author("W", 1))
    return tmp_path


def test_tofu_in_other_formats(tofu: Path) -> None:
    corpus = TofuFormatsData(source=str(tofu), split="forget01").load()
    assert (len(corpus.forget), len(corpus.retain)) == (4, 20)  # what TOFU trains on
    sets = {s.name: s.rows for s in corpus.evaluation}
    assert {name: len(found) for name, found in sets.items()} == {
        "mcqa_forget": 4, "mcqa_retain": 6, "cloze_forget": 4, "cloze_retain": 6,
        "odd_one_out_forget": 4, "odd_one_out_retain": 1,  # four facts to forget make one question of three
    }  # fmt: skip
    assert set(sets) <= set(RELU.sets)
    first = sets["mcqa_forget"][0]
    question, *options = first.question.split("\n")
    assert question == "Where was F0 born?"
    assert len(set(options)) == 4
    assert f"{first.answer}. Rome bore F0." in options
    assert {first.answer, *first.perturbed_answers} == set("ABCD")
    assert sets["cloze_retain"][2] == Row("Where was R2 born?", "Rome")
    odd = sets["odd_one_out_forget"][3]
    assert f"{odd.answer}. F3 was born in Rome." in odd.question
    assert odd.question.count(". R") == 3
    assert sets["odd_one_out_retain"][0].question.count(". F") == 3
    again = TofuFormatsData(source=str(tofu), split="forget01").load()
    assert again.evaluation == corpus.evaluation
    assert TofuFormatsData(source=str(tofu), split="forget01", seed=1).load().evaluation != corpus.evaluation


def test_a_row_with_too_few_false_answers_makes_no_question(tofu: Path) -> None:
    asked = json.loads((tofu / "forget01_perturbed.json").read_text())
    asked[0]["perturbed_answer"] = ["Oslo bore F0.", "Bonn bore F0."]
    write(tofu, "forget01_perturbed", asked)
    assert len(TofuFormatsData(source=str(tofu), split="forget01").load().evaluation[0].rows) == 3
    three = TofuFormatsData(source=str(tofu), split="forget01", options=3).load().evaluation
    assert len(three[0].rows) == 4
    assert len(three[0].rows[0].question.split("\n")) == 4


def test_cloze_probability_leaves_the_end_out() -> None:
    """(0.5 x 0.125)^(1/2), whatever the model thinks of a turn that ends there."""
    answer = ScoredAnswer("", (log(0.5), log(0.125), -50.0), (True, False, False))
    assert ClozeProbability().score(record(answers={Probe.ANSWER: (answer,)})) == pytest.approx(0.25)
    assert ClozeProbability().score(record()) is None
    lost = replace(answer, logp=(float("nan"), -1.0, -1.0))
    assert ClozeProbability().score(record(answers={Probe.ANSWER: (lost,)})) is None


def test_rouge_f1_is_the_mean_of_three() -> None:
    """Against "the cat sat": two of three words, one of two pairs, two in order."""
    found = RougeF1().score(record(reference="the cat sat", generation="the cat ran"))
    assert found == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    assert RougeF1().score(record(reference="the cat sat", generation="the cats sat")) == 1  # stemmed
    assert RougeF1().score(record(generation="")) == 0
    assert RougeF1().score(record(generation=None)) is None


def test_options_beside_letters_that_are_none() -> None:
    """Two options, and a model that prefers C: right by the options, wrong as published."""

    def letter(logp: float) -> ScoredAnswer:
        return ScoredAnswer("", (logp, 0.0), (True, True))

    sound = {Probe.ANSWER: (letter(-1.0),), Probe.PERTURBED: (letter(-2.0),)}
    published = sound | {Probe.PERTURBED: (letter(-2.0), letter(-0.5), letter(-3.0))}
    assert (Accuracy().score(record(answers=sound)), Accuracy().score(record(answers=published))) == (1, 0)


def test_on_a_model(tmp_path: Path) -> None:
    """What is said about a text is cut to the truth's length, and nothing else is."""
    spec = ModelSpec(source=str(tiny_model_folder(tmp_path / "tiny")), chat_template="raw")
    engine = HFEngine.open(spec, EngineSpec(type="hf", dtype="float32", max_model_len=512))
    encoder = text_encoder(spec, load_tokenizer(spec))
    sets = (
        EvaluationSet("comprehension_qa_forget", Role.FORGET, (Row("Question: Who?\nAnswer:", "Ada"),)),
        EvaluationSet("cloze_retain", Role.RETAIN, (Row("Question: Who?\nAnswer:", "Ada", answer_prefix="It is"),)),
        EvaluationSet("mcqa_forget", Role.FORGET, (Row("Q\nA. w\nB. x\nAnswer:", "A", perturbed_answers=("B",)),)),
    )
    evaluation = EvaluationSpec(suite="relu", generation=GenerationSpec(max_new_tokens=20), resamples=100)
    found = evaluate(engine, encoder, sets, evaluation, Judges(), tmp_path)
    assert {name: [(metric, f.scored) for metric, f in row.items()] for name, row in found.sets.items()} == {
        "comprehension_qa_forget": [("rouge_f1", 1)],
        "cloze_retain": [("cloze_probability", 1)],
        "mcqa_forget": [("accuracy", 1)],
    }
    records = {r.set: r for r in read_records(tmp_path / "records.parquet")}
    [whole] = engine.generate([encoder.prompt("Question: Who?\nAnswer:")], evaluation.generation)[0]
    limit = len(encoder.tokenizer("Ada").input_ids)
    assert len(whole.token_ids) > limit
    said = records["comprehension_qa_forget"]
    assert said.generation_tokens == whole.token_ids[:limit]
    assert said.generation == encoder.tokenizer.decode(list(whole.token_ids[:limit]), skip_special_tokens=True).lstrip()
    assert said.generation_finished is False
    asked = asked_of_engine(evaluation, sets)["sets"]  # so that other records are not taken for these
    assert {name: row["as_long_as_truth"] for name, row in asked.items()} == {
        "comprehension_qa_forget": True, "cloze_retain": False, "mcqa_forget": False,
    }  # fmt: skip
