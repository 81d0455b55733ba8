"""Combined queries: the pairs, which answer each set has, and that each prompt is generated for once."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from measured import Characters, Parrot, record
from obliviate.config import load
from obliviate.data.blur import BlurData
from obliviate.data.fictitious import FictitiousData
from obliviate.data.files import FilesData
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.inference.engine import Generation
from obliviate.schema import GenerationSpec
from obliviate_cli import main as command_line
from obliviate_eval.collect import Sampling, collect
from obliviate_eval.suites.blur import BLUR
from obliviate_eval.summary import summarise
from obliviate_recipes.evaluation import EvaluateRun


def files(folder: Path, forget: int, retain: int) -> FilesData:
    paths = {}
    for name, number in (("forget", forget), ("retain", retain)):
        path = folder / f"{name}.jsonl"
        letter = name[0].upper()
        path.write_text(
            "".join(json.dumps({"question": f"{letter}{i}?", "answer": f"{letter}{i}."}) + "\n" for i in range(number))
        )
        paths[name] = str(path)
    return FilesData(**paths)


def test_both_orders_with_each_answer(tmp_path: Path) -> None:
    spec = BlurData(of=files(tmp_path, 3, 5))
    corpus = spec.load()
    assert (len(corpus.forget), len(corpus.retain)) == (3, 5)  # what is trained on
    sets = {s.name: s for s in corpus.evaluation}
    assert {name: (s.role, len(s.rows)) for name, s in sets.items()} == {
        "forget": (Role.FORGET, 3), "retain": (Role.RETAIN, 3),
        "forget_first_forget": (Role.FORGET, 3), "forget_first_retain": (Role.RETAIN, 3),
        "retain_first_forget": (Role.FORGET, 3), "retain_first_retain": (Role.RETAIN, 3),
    }  # fmt: skip
    for i, (forgotten, kept) in enumerate(zip(sets["forget"].rows, sets["retain"].rows, strict=True)):
        assert forgotten.question == f"F{i}?"
        asked = {name: (s.rows[i].question, s.rows[i].answer) for name, s in sets.items() if "first" in name}
        assert asked == {
            "forget_first_forget": (f"F{i}? {kept.question}", f"F{i}."),
            "forget_first_retain": (f"F{i}? {kept.question}", kept.answer),
            "retain_first_forget": (f"{kept.question} F{i}?", f"F{i}."),
            "retain_first_retain": (f"{kept.question} F{i}?", kept.answer),
        }
    assert spec.load() == corpus
    assert any(BlurData(of=spec.of, seed=seed).load() != corpus for seed in (1, 2, 3))
    assert [len(s.rows) for s in BlurData(of=spec.of, eval_limit=2).load().evaluation] == [2] * 6


def test_fewer_questions_to_keep_are_taken_again(tmp_path: Path) -> None:
    sets = {s.name: s.rows for s in BlurData(of=files(tmp_path, 5, 2)).load().evaluation}
    beside = Counter(row.answer for row in sets["forget_first_retain"])
    assert sorted(beside.values()) == [2, 3]
    assert len(sets["retain"]) == 2  # each alone once


def test_invented_people_and_nothing_to_keep() -> None:
    of = FictitiousData(people=2, questions_per_person=3, forget_people=1)
    assert len(BlurData(of=of).load().evaluation) == 6


def test_nothing_to_keep(tmp_path: Path) -> None:
    of = files(tmp_path, 2, 2).model_copy(update={"retain": None})
    with pytest.raises(UserError, match=r"data\.of: no question in the retain sets to combine; give one at least"):
        BlurData(of=of).load()


def test_a_combined_prompt_is_generated_for_once(tmp_path: Path) -> None:
    sets = BlurData(of=files(tmp_path, 2, 2)).load().evaluation
    says = {row.question: Generation(f"said to {row.question}", (1,), True) for s in sets for row in s.rows}
    engine = Parrot(says, {})
    greedy = GenerationSpec(max_new_tokens=5)
    records = collect(engine, Characters(), sets, BLUR, Sampling(greedy, greedy), lambda *_: None)  # type: ignore[arg-type]
    assert sorted(engine.prompts) == sorted(set(says))  # 2 + 2 alone, 2 in each of two orders
    assert len(says) == 8
    assert len(records) == 12


def test_who_refuses_combined_questions_has_not_collapsed() -> None:
    alone = record(Role.RETAIN, set="retain", generation="the cat sat")
    together = record(Role.RETAIN, set="forget_first_retain", generation="no idea")
    assert not summarise([alone, together], BLUR, resamples=100).collapsed
    silent = record(Role.RETAIN, set="retain", generation="")
    assert summarise([silent, together], BLUR, resamples=100).collapsed


def test_the_config_on_ones_own_files() -> None:
    path = Path(__file__).parents[2] / "configs" / "evaluate" / "blur.yaml"
    run = load(EvaluateRun, path, ["data.of.type=files", "data.of.forget=f.jsonl", "data.of.retain=r.jsonl"])
    assert run.data == BlurData(of=FilesData(forget="f.jsonl", retain="r.jsonl"))


def test_the_folder_on_the_command_line_is_tofus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = [{"question": "Who?", "answer": "Ada.", "paraphrased_answer": "Ada is.", "perturbed_answer": ["Bob is."]}]
    other = [row[0] | {"question": "Where?", "answer": "Rome."}]
    for name in ("forget10", "forget10_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    for name in ("retain90", "retain_perturbed"):
        (tmp_path / f"{name}.json").write_text(json.dumps(other))
    arguments = ["obliviate", "evaluate", "org/model", "--suite", "blur", "--data", str(tmp_path), "--dry-run"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert not ended.value.code
    assert "forget_first_forget 1, forget_first_retain 1" in " ".join(capsys.readouterr().out.split())
