"""`evaluate` and `rescore` as a user meets them: before a model is loaded, and where it no longer is."""

import json
import sys
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import pytest
import yaml

from measured import answers, record
from modules import loaded_by
from obliviate.data.rows import Role
from obliviate.errors import UserError
from obliviate.runs import DONE_FILE, RUN_FILE, write_json
from obliviate_cli import main as command_line
from obliviate_cli.evaluate import evaluate
from obliviate_eval.metrics import COMPARISON_TYPES, METRIC_TYPES
from obliviate_eval.records import RECORDS_FILE, Probe, Record, write_records
from obliviate_eval.spec import EvaluationSpec
from obliviate_eval.suites import SUITES
from obliviate_eval.summary import METRICS_FILE, summarise
from obliviate_recipes.stages import measure
from obliviate_recipes.stages.cautions import of_data as warnings
from tiny import tiny_model_folder

HEAVY = ("torch", "ray", "vllm", "transformers", "scipy", "plotly", "sklearn", "datasets", "lm_eval", "nltk")
FORGET = [{"question": f"Where does person {i} live?", "answer": f"Person {i} lives in London."} for i in range(4)]
RUN = "runs/unlearn-npo+gd-0123456789"
KNOWN = (*METRIC_TYPES, *COMPARISON_TYPES)


@pytest.fixture
def forget(tmp_path: Path) -> Path:
    path = tmp_path / "forget.jsonl"
    path.write_text("\n".join(map(json.dumps, FORGET)))
    return path


@pytest.fixture
def dry(
    tmp_path: Path, forget: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """The config that models on the command line come to."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, retain: str | None = None) -> dict[str, Any]:
        evaluate(arguments, "custom", str(forget), retain, True)
        config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out.partition("\n\n")[0])
        return config

    return run


def trained(runs: Path, label: str, digits: str = "0123456789", **model: Any) -> Path:
    run = runs / f"unlearn-{label.lower()}-{digits}"
    (run / "model").mkdir(parents=True)
    values = {"source": "base", "lora": {"rank": 4}, "revision": "main", "max_length": 99, **model}
    write_json(run / RUN_FILE, {"verb": "unlearn", "label": label, "config": {"model": values}})
    write_json(run / DONE_FILE, {})
    return run


def test_robustness_asks_a_file_in_every_form(
    tmp_path: Path, forget: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the data is a folder or a hub id, it is TOFU."""
    monkeypatch.chdir(tmp_path)
    tiny_model_folder(tmp_path / "mine")
    evaluate(["mine"], "robustness", forget.name, None, True)
    config = yaml.safe_load((out := capsys.readouterr().out).partition("\n\n")[0])
    assert (config["data"]["type"], config["data"]["forget"]) == ("files", "forget.jsonl")
    assert config["evaluation"]["questions"] == "formats"
    assert "forget 4, forget as paraphrase_polite 4, " in out
    assert "warning: forget as true_false: 4 of 4 rows are left out: 4 without enough false answers" in out
    with pytest.raises(UserError, match="nowhere"):
        evaluate(["mine"], "robustness", "nowhere", None, True)


class TestModels:
    def test_folders_hub_ids_and_files_are_named_by_their_last_part(
        self, dry: Callable[..., dict[str, Any]], tmp_path: Path
    ) -> None:
        (tmp_path / "mine").mkdir()
        models = dry("org/base-1B", "./mine", "gpt2")["models"]
        assert {name: spec["source"] for name, spec in models.items()} == {
            "base-1B": "org/base-1B", "mine": "./mine", "gpt2": "gpt2",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "form", ["runs/unlearn-npo+gd-0123456789", "runs/unlearn-npo+gd-0123456789/model", "NPO+GD"]
    )
    def test_a_run_by_its_folder_its_model_or_its_name(
        self, dry: Callable[..., dict[str, Any]], tmp_path: Path, form: str
    ) -> None:
        run = trained(tmp_path / "runs", "NPO+GD", chat_template="plain")
        model = dry(form)["models"]["NPO+GD"]
        assert model["source"] == str(run / "model")
        assert (model["chat_template"], model["max_length"]) == ("plain", 99)  # laid out as it was trained
        assert (model["lora"], model["revision"]) == (None, None)

    def test_a_name_that_two_runs_have(self, dry: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
        trained(tmp_path / "elsewhere", "mine"), trained(tmp_path / "elsewhere", "mine", "9876543210")
        with pytest.raises(UserError, match=r"^mine: several runs have this name: elsewhere/.*; give one"):
            dry("mine", "runs=elsewhere")

    def test_a_run_without_a_model(self, dry: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
        write_json(tmp_path / "runs" / "half" / RUN_FILE, {"label": "half"})
        with pytest.raises(UserError, match=r"runs/half: no model in this run"):
            dry("runs/half")

    def test_two_of_one_name_and_the_retain_model(self, dry: Callable[..., dict[str, Any]]) -> None:
        config = dry("a/one", "b/one", "a/zero", "evaluation.resamples=200", retain="a/zero")
        assert list(config["models"]) == ["zero", "one", "one-2"]
        assert config["retain_model"] == "zero"
        assert config["evaluation"]["resamples"] == 200
        assert config["evaluation"]["suite"] == "custom"

    @pytest.mark.parametrize(
        ("arguments", "suite", "message"),
        [
            (("gpt2",), None, r"^evaluate: gpt2 is no config file; for a model say --suite, one of closer_look, "),
            ((), "tofu", r"^evaluate: name a config file, or one or more models with --suite$"),
            (("a.yaml", "gpt2"), "tofu", r"^evaluate: a.yaml is a config, which names models, data"),
            (("gpt2",), "tofo", r"^evaluate: evaluation\.suite: is not known; did you mean tofu\? \(got 'tofo'\)$"),
            (("gpt2", "evaluation.sute=x"), "tofu", r"^evaluate: evaluation\.sute: unknown key; did you mean suite\?$"),
        ],
    )
    def test_mistakes(self, arguments: tuple[str, ...], suite: str | None, message: str) -> None:
        with pytest.raises(UserError, match=message):
            evaluate(arguments, suite, None, None, True)


def measured(run: Path, probability: float) -> list[Record]:
    """An evaluation run of TOFU's suite over two items."""
    truth = {Probe.ANSWER: answers(log(probability)), Probe.PARAPHRASED: answers(log(0.4))}
    records = [record(Role.FORGET, index=i, generation="the cat", answers=truth) for i in range(2)]
    write_records(run / RECORDS_FILE, records)
    summarise(records, SUITES["tofu"], resamples=100).write(run / METRICS_FILE)
    evaluation = {"suite": "tofu", "resamples": 100, "seed": 0, "engine": {}}
    config = {"evaluation": evaluation, "model": {"source": "org/base"}}
    write_json(run / RUN_FILE, {"verb": "evaluate", "label": run.name, "config": config})
    return records


def command(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["obliviate", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        command_line.main()
    return int(exit_.value.code or 0)


class TestRescore:
    def test_metrics_of_two_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, probability in (("before", 0.5), ("after", 0.25)):
            measured(tmp_path / name, probability)
        (tmp_path / "after" / RUN_FILE).unlink()  # imported logs have no config
        code = command(
            "rescore", tmp_path / "before", tmp_path / "after", "--metric", "probability", "--metric",
            "truth_ratio definition=tofu", "-o", tmp_path / "figures.json", monkeypatch=monkeypatch,
        )  # fmt: skip
        assert code == 0
        out = capsys.readouterr().out
        assert "0.5000" in out
        assert "0.2500" in out
        assert "2 unscored" in out  # no false answers: no truth ratio
        found = json.loads((tmp_path / "figures.json").read_text())
        figure = found[str(tmp_path / "after")]["sets"]["forget"]["probability"]
        assert (figure["value"], figure["scored"]) == (pytest.approx(0.25), 2)
        assert found[str(tmp_path / "after")]["aggregates"] == {}

    def test_a_suite_without_metrics_is_the_whole_suite(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        measured(tmp_path / "run", 0.5)
        assert command("rescore", tmp_path / "run", "--suite", "closer_look", monkeypatch=monkeypatch) == 0
        out = capsys.readouterr().out
        assert "forget rouge" in out
        assert "forget_efficacy" in out

    @pytest.mark.parametrize(
        ("metric", "message"),
        [
            ("rogue", "error: rescore: metrics.0.type: 'rogue' is not known; did you mean rouge?\n"),
            ("rouge k=1", "error: rescore: metrics.0.k: unknown key; known: type, words, definition\n"),
            ("rouge k", "error: --metric 'rouge k': 'k': write parameters as key=value behind the metric's name\n"),
            ("leak_at_k k=[", "error: --metric 'leak_at_k k=[': a value is no YAML: while parsing a flow node\n"),
            ("", f"error: rescore: metrics.0.type: '' is not known; known: {', '.join(KNOWN)}\n"),
        ],
    )
    def test_mistakes(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        metric: str,
        message: str,
    ) -> None:
        measured(tmp_path / "run", 0.5)
        assert command("rescore", tmp_path / "run", "--metric", metric, monkeypatch=monkeypatch) == 2
        assert capsys.readouterr().err == message

    def test_one_metric_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Figures go by a metric's name: the second would take the first one's place."""
        measured(tmp_path / "run", 0.5)
        asked = ("--metric", "leak_at_k threshold=0.3", "--metric", "leak_at_k threshold=0.7")
        assert command("rescore", tmp_path / "run", *asked, monkeypatch=monkeypatch) == 2
        assert capsys.readouterr().err.startswith("error: --metric leak_at_k: twice in one call")

    def test_a_run_of_another_kind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = trained(tmp_path, "ME+GD")
        assert command("rescore", run, monkeypatch=monkeypatch) == 2
        assert capsys.readouterr().err == (
            f"error: {run}: a run of `unlearn`, which holds no records; give one of `evaluate`\n"
        )

    def test_a_folder_without_records(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command("rescore", tmp_path, monkeypatch=monkeypatch) == 2
        assert "metrics.json: cannot be read" in capsys.readouterr().err


def test_what_a_sets_rows_lack_is_said_before_anything_runs() -> None:
    from obliviate.data.rows import Corpus, EvaluationSet, Row

    rows = (Row("Who?", "Ada"), Row("What?", "It"))
    corpus = Corpus(rows, (), (EvaluationSet("forget", Role.FORGET, rows),))
    (warning,) = warnings(corpus, EvaluationSpec(suite="closer_look"))
    assert warning == (
        "data: no row of the set forget has paraphrased_answer or perturbed_answers: truth_ratio will score nothing "
        "there; add the field, or take another suite than closer_look"
    )
    texts = Corpus(rows, (), (EvaluationSet("forget", Role.FORGET, (Row("", "Ada wrote it"),)),))
    (warning,) = warnings(texts, EvaluationSpec(suite="tofu"))
    assert warning.startswith(
        "data: no row of the set forget has question or paraphrased_answer or perturbed_answers: "
    )
    assert "rouge" in warning
    assert " probability" not in warning
    whole = (Row("Who?", "Ada", "It was Ada", ("Bob",)),)
    complete = Corpus(whole, (), (EvaluationSet("forget", Role.FORGET, whole),))
    assert warnings(complete, EvaluationSpec(suite="closer_look")) == []
    partly = Corpus(
        whole,
        (),
        (
            EvaluationSet(
                "forget",
                Role.FORGET,
                (*whole, Row("What?", "It", "That", ())),
            ),
        ),
    )
    (warning,) = warnings(partly, EvaluationSpec(suite="tofu"))
    assert warning.startswith("data: 1 of 2 rows of the set forget have no perturbed_answers: they count as unscored")


@pytest.mark.parametrize("module", ["obliviate_cli.evaluate", "obliviate_recipes.rescore"])
def test_reading_figures_loads_nothing_heavy(module: str) -> None:
    """What a typo, a finished evaluation and `rescore` wait for."""
    assert loaded_by(module, HEAVY) == []


def test_progress_has_the_pace_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation begins at 100 s; at 104 s 60 tokens are there: 15 a second, whatever scoring took before it."""
    now_s = {"value": 0.0}
    monkeypatch.setattr(measure, "monotonic", lambda: now_s["value"])
    seen: list[tuple[int, int, str]] = []
    stage = measure.Pace(lambda *step: seen.append(step))
    stage.begin("score", 0, 8)
    now_s["value"] = 100.0
    stage.begin("generate", 0, 4)
    now_s["value"] = 104.0
    stage.update(2, 4, 60)
    stage.begin("generate", 4, 4)
    assert seen == [(0, 8, "score"), (0, 4, "generate"), (2, 4, "generate 60 tokens, 15 tokens/s"), (4, 4, "generate")]
