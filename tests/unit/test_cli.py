"""The command line as a user meets it: what it prints, what it says to mistakes, and what it does not load."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from command_line import Cli, Result, run_here
from modules import loaded_by
from obliviate import __version__
from obliviate.config import UnlearnRun, build
from obliviate.data.tables import KINDS
from obliviate.methods import FORGET_TYPES, REGULARIZER_TYPES
from obliviate_cli.catalogue import resistances
from obliviate_cli.console import open_console
from obliviate_cli.progress import progress
from obliviate_eval.metrics import COMPARISON_TYPES, METRIC_TYPES
from obliviate_eval.suites import SUITES

SCRIPT = Path(sys.executable).with_name("obliviate")
HEAVY = ("torch", "ray", "vllm", "transformers", "scipy", "plotly", "sklearn", "datasets")
FORGET = [{"question": f"Where does person {i} live?", "answer": f"Person {i} lives in London."} for i in range(8)]
RETAIN = [{"question": f"Who wrote book {i}?", "answer": f"Ada wrote book {i}."} for i in range(10)]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return run_here(monkeypatch, capsys)


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> Path:
    """Unlearns eight rows in four steps of four."""
    values = {
        "model": {"source": str(tiny), "max_length": 64},
        "data": {
            "type": "files",
            "forget": str(write_rows(tmp_path / "forget.jsonl", FORGET)),
            "retain": str(write_rows(tmp_path / "retain.jsonl", RETAIN)),
        },
        "method": "npo+gd",
        "optim": {"epochs": 2, "batch_size": 4},
        "runs": str(tmp_path / "runs"),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def mistake(result: Result) -> str:
    """What the one line says after "error: "; nothing else may be there."""
    assert result.code == 2
    assert result.out == ""
    assert result.error.startswith("error: ")
    assert result.error.count("\n") == 1
    assert result.error.endswith("\n")
    return result.error.removeprefix("error: ").rstrip("\n")


class TestScript:
    """The installed command, in a process of its own."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        if not SCRIPT.exists():
            pytest.skip(f"{SCRIPT} is not there: the project is not installed in this environment")

    def run(self, *arguments: str) -> Result:
        done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=240, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def test_help_lists_the_verbs(self) -> None:
        code, out, _ = self.run("--help")
        assert code == 0
        for verb in ("demo", "compare", "finetune", "unlearn", "evaluate", "report", "import", "methods", "metrics"):
            assert f" {verb} " in out

    def test_a_typo_is_one_line_and_exit_code_2(self, config: Path) -> None:
        message = mistake(self.run("unlearn", str(config), "optim.epoch=3"))
        assert message == f"{config}: optim.epoch: unknown key; did you mean epochs?"

    def test_a_missing_file_is_one_line_and_exit_code_2(self, tmp_path: Path) -> None:
        message = mistake(self.run("compare", str(tmp_path / "nowhere.yaml")))
        assert message == f"{tmp_path / 'nowhere.yaml'}: no such file; configs/ has ready ones"


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.ECONNRESET, False)])
def test_what_a_disk_refuses_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int, told: bool) -> None:
    def refuse(_: object) -> None:
        raise OSError(number, os.strerror(number), "/runs/it")

    monkeypatch.setattr("obliviate_cli.catalogue.metrics", refuse)
    if told:
        again = "mend it and run the same command again: it goes on where it stopped"
        assert mistake(cli("metrics")) == f"/runs/it: {os.strerror(number)}; {again}"
    else:
        with pytest.raises(ConnectionResetError):
            cli("metrics")


def test_help_loads_nothing_heavy() -> None:
    """The parser alone is imported before a verb runs: that is what keeps --help quick."""
    assert loaded_by("obliviate_cli.main", HEAVY) == []


class TestDryRun:
    def test_it_prints_a_config_that_is_complete_and_a_plan(self, cli: Cli, config: Path) -> None:
        """8 rows, 2 epochs, batch 4: floor(16 / 4) = 4 steps."""
        code, out, error = cli("unlearn", config, "method.beta=0.2", "--dry-run")
        assert (code, error) == (0, "")
        dumped, plan = out.split("\n\n")
        resolved = build(UnlearnRun, yaml.safe_load(dumped), where="printed")
        assert resolved == build(UnlearnRun, yaml.safe_load(config.read_text()), ["method.beta=0.2"], where="file")
        first, second = plan.strip().split("\n")
        assert first.startswith("unlearn 8 rows with NPO+GD, retain set of 10: 4 steps of 4 items, about ")
        assert "GiB for weights" in first
        assert second.startswith("  first what terms compare with, from the starting model")
        assert not (config.parent / "runs").exists()

    def test_its_tokens_are_those_of_the_texts(self, cli: Cli, config: Path, tiny: Path) -> None:
        from obliviate.data.rows import Row
        from obliviate.models import load_tokenizer, text_encoder
        from obliviate.schema import ModelSpec

        spec = ModelSpec(source=str(tiny))
        encoder = text_encoder(spec, load_tokenizer(spec))
        mean = sum(len(encoder.encode_row(Row(row["question"], row["answer"])).input_ids) for row in FORGET) / 8
        _, out, _ = cli("unlearn", config, "method=ga", "--dry-run")
        assert f"about {4 * mean:.0f} tokens a step, {16 * mean:.0f} in all" in out

    def test_it_says_that_alternatives_will_be_sampled(self, cli: Cli, config: Path) -> None:
        _, out, _ = cli("unlearn", config, "method=altpo+gd", "--dry-run")
        assert "\nsample 5 other answers to 8 questions\n" in out
        _, out, _ = cli("unlearn", config, "--dry-run")
        assert "other answers" not in out

    def test_an_overlap_of_forget_and_retain_is_counted(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        write_rows(tmp_path / "retain.jsonl", [*RETAIN, *FORGET[:3]])
        _, out, _ = cli("unlearn", config, "--dry-run")
        assert "warning: 3 of 13 retain rows are also in the forget set: removed from retain\n" in out
        assert "retain set of 10: " in out

    def test_texts_that_are_cut_are_counted(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        row = {"question": "Who?", "answer": "Ada and " * 600}
        write_rows(tmp_path / "forget.jsonl", [*FORGET, row])
        _, out, _ = cli("unlearn", config, "model.max_length=512", "--dry-run")
        fix = "raise model.max_length, or split them (data.chunk_words)"
        assert f"warning: 1 of 19 training texts are cut at 512 tokens: {fix}\n" in out

    def test_brackets_are_printed_as_they_are(self, cli: Cli, config: Path) -> None:
        template = "{% for m in messages %}[INST] {{ m.content }} [/INST]:fire:{% endfor %}"
        _, out, _ = cli("unlearn", config, f"model.chat_template={json.dumps(template)}", "--dry-run")
        assert yaml.safe_load(out.split("\n\n")[0])["model"]["chat_template"] == template

    def test_the_demo(self, cli: Cli, tiny: Path) -> None:
        """Eight people with five questions, two to forget: 40, 30 and 10 rows."""
        code, out, _ = cli("demo", f"model.source={tiny}", "--dry-run")
        assert code == 0
        lines = out.split("\n\n")[1].strip().split("\n")
        assert [line.partition(": ")[0] for line in lines if not line.startswith("warning")] == [
            "train the NLI judge on generated people",
            "target",
            "retain",
            "evaluate retain with closer_look",
            "evaluate target with closer_look",
            "ME+GD",
            "evaluate ME+GD with closer_look",
            "IDK+AP",
            "evaluate IDK+AP with closer_look",
            lines[-1],
        ]
        attacks = out.split("\n\n")[3].strip().split("\n")
        for model in ("original", "retain", "ME+GD", "IDK+AP"):
            for attack in ("relearn forget", "int8", "ask"):
                assert any(line.startswith(f"attack {model}: {attack}") for line in attacks), (model, attack)
        assert "target: fine-tune on 40 rows (all): " in out
        assert "ME+GD: unlearn 10 rows with ME+GD, retain set of 30: " in out
        assert lines[-1].startswith("report in ")

    def test_an_evaluation(self, cli: Cli, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "evaluate.yaml"
        path.write_text(f"models: {{a: {{source: {tiny}}}}}\ndata: {{type: fictitious, people: 3, forget_people: 1}}\n")
        _, out, _ = cli("evaluate", path, "--dry-run")
        assert "evaluate a with closer_look: forget 10, retain 20, world_facts 30 items; probes: answer, " in out


class TestBadInput:
    """Each is found before any training begins; `--dry-run` finds it as well."""

    def test_an_empty_forget_set(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        (tmp_path / "forget.jsonl").write_text("")
        message = mistake(cli("unlearn", config))
        assert (
            message
            == f"{config}: data.forget: {tmp_path}/forget.jsonl: has no rows; give a file with at least one question "
            "and answer"
        )

    def test_a_row_without_an_answer(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        write_rows(tmp_path / "forget.jsonl", [FORGET[0], {"question": "Who?"}])
        assert mistake(cli("unlearn", config)) == (
            f"{config}: data.forget: {tmp_path}/forget.jsonl, line 2: has no 'answer' (found: question); "
            "add it, name its column (data.columns.answer=COLUMN), or give a plain text as 'text'"
        )

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("a.jsonl", '{"question": "Who?", "answer": null}', "a.jsonl, line 1: 'answer' is empty (null, "),
            ("a.csv", "question,answer\n,Ada.\n", "a.csv, line 2: 'question' is empty (null, or an empty cell); "),
            ("a.jsonl", '{"text": null}', "a.jsonl, line 1: 'text' is empty (null, "),
            (
                "a.csv",
                "frage,antwort\nWer?,Ada.\n",
                "a.csv, line 2: has no 'question' (found: frage, antwort); add it, ",
            ),
        ],
    )
    def test_a_value_that_is_not_there(
        self, cli: Cli, config: Path, tmp_path: Path, name: str, content: str, told: str
    ) -> None:
        (tmp_path / name).write_text(content)
        message = mistake(cli("unlearn", config, f"data.forget={tmp_path / name}", "--dry-run"))
        assert message.startswith(f"data.forget: {tmp_path}/{told}")

    def test_the_columns_that_the_message_asks_for_are_taken(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("frage,antwort\nWer?,Ada.\n")
        names = ("data.columns.question=frage", "data.columns.answer=antwort")
        code, out, _ = cli(
            "unlearn", config, f"data.forget={tmp_path}/a.csv", "data.retain=null", "method=ga", *names, "--dry-run"
        )
        assert code == 0
        assert "unlearn 1 rows with " in out

    def test_a_folder_in_place_of_a_file_and_one_that_is_not_there(
        self, cli: Cli, config: Path, tmp_path: Path
    ) -> None:
        message = mistake(cli("unlearn", config, f"data.forget={tmp_path}", "--dry-run"))
        assert message.startswith(f"data.forget: {tmp_path}: is a folder; give a file in it, or ")
        for missing in ("nowhere/", "runs/nowhere/model"):
            message = mistake(cli("unlearn", config, f"model.source={missing}", "--dry-run"))
            assert message.startswith(f"model.source: {missing}: no such file or folder; ")
            message = mistake(cli("unlearn", config, f"data={{type: tofu, source: {missing}}}", "--dry-run"))
            assert message.startswith(f"data.source: {missing}: no such folder; ")

    @pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
    def test_a_file_of_refusals_that_is_not_there(self, cli: Cli, config: Path, dry_run: tuple[str]) -> None:
        message = mistake(cli("unlearn", config, "refusals=nowhere.txt", *dry_run))
        assert message.startswith("nowhere.txt: no such file of refusals; give ")

    @pytest.mark.parametrize("given", ["kl_budget={nats: 1, %s}", "validation={%s}", "undo={%s}"])
    def test_further_texts_that_are_not_there(self, cli: Cli, config: Path, given: str) -> None:
        message = mistake(cli("unlearn", config, given % "texts: nowhere.jsonl", "--dry-run"))
        assert message.removeprefix(f"{config}: ").startswith(
            f"{given.split('=')[0]}.texts: nowhere.jsonl: no such file; give a "
        )

    @pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
    def test_a_method_that_needs_a_retain_set_without_one(self, cli: Cli, config: Path, dry_run: tuple[str]) -> None:
        message = mistake(cli("unlearn", config, "data.retain=null", *dry_run))
        assert message.startswith(
            f"{config}: method: NPO+GD needs a retain set and the data has none; give data.retain, "
        )

    def test_a_retain_model_without_a_retain_set(self, cli: Cli, config: Path) -> None:
        values = yaml.safe_load(config.read_text())
        del values["method"], values["data"]["retain"]
        config.write_text(yaml.safe_dump({**values, "train_on": "retain"}))
        message = mistake(cli("finetune", config))
        assert message == f"{config}: train_on: retain: the data has no retain set; give data.retain, or train_on: all"

    def test_a_model_that_is_not_there(self, cli: Cli, config: Path) -> None:
        message = mistake(cli("unlearn", config, "model.source=./nowhere"))
        assert message.startswith("model.source: ./nowhere: no such file or folder; give a folder, ")

    def test_a_model_folder_without_a_tokenizer(self, cli: Cli, config: Path, tiny: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny, tmp_path / "model", ignore=shutil.ignore_patterns("*token*"))
        message = mistake(cli("unlearn", config, f"model.source={tmp_path / 'model'}", "--dry-run"))
        assert message.startswith(f"model.source: {tmp_path / 'model'}: no tokenizer could be loaded (")

    def test_a_tokenizer_without_a_chat_template(self, cli: Cli, config: Path, tiny: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny, tmp_path / "model", ignore=shutil.ignore_patterns("chat_template*"))
        message = mistake(cli("unlearn", config, f"model.source={tmp_path / 'model'}", "--dry-run"))
        assert message == (
            f"{config}: model.chat_template: the tokenizer has no chat template; "
            "set model.chat_template: plain (a base model), or give a Jinja file"
        )

    def test_a_folder_of_runs_that_cannot_be_written(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("a file")
        message = mistake(cli("unlearn", config))
        assert message == f"{config}: runs: {tmp_path}/runs: cannot be written (Not a directory); give another folder"

    def test_the_file_is_named_that_has_the_wrong_key(self, cli: Cli, config: Path, tmp_path: Path) -> None:
        """The base, where the key stands there; none, where the command line gives it."""
        over = tmp_path / "over.yaml"
        over.write_text("base: run.yaml\ndata: {retain: ./nowhere.jsonl}\n")
        there = f"./nowhere.jsonl: no such file; give a {KINDS}"
        assert mistake(cli("unlearn", over)) == f"{over}: data.retain: {there.removeprefix('./')}"
        (tmp_path / "forget.jsonl").unlink()
        assert mistake(cli("unlearn", over)).startswith(f"{config}: data.forget: {tmp_path}/forget.jsonl: no such file")
        message = mistake(cli("unlearn", over, "data.forget=./nowhere.jsonl"))
        assert message == f"data.forget: {there.removeprefix('./')}"
        evaluation = tmp_path / "evaluation.yaml"
        evaluation.write_text(f"models: {{a: {{source: x}}}}\ndata: {{type: files, forget: {tmp_path}/forget.jsonl}}\n")
        assert mistake(cli("evaluate", evaluation)).startswith(f"{evaluation}: data.forget: ")

    def test_a_report_of_what_is_no_evaluation(self, cli: Cli, tmp_path: Path) -> None:
        message = mistake(cli("report", tmp_path))
        assert message == f"{tmp_path}: no finished evaluation (no metrics.json); give folders of evaluation runs"

    def test_logs_of_an_unknown_framework_and_logs_that_are_none(self, cli: Cli, tmp_path: Path) -> None:
        assert mistake(cli("import", "tofoo", tmp_path)) == "tofoo: no importer; known: openunlearning, tofu"
        for framework in ("tofu", "openunlearning"):
            there = tmp_path / "nowhere.json"
            assert mistake(cli("import", framework, there)).startswith(f"{there}: no such file; give ")
        (tmp_path / "cut.json").write_text("{")
        assert "no readable JSON" in mistake(cli("import", "tofu", tmp_path / "cut.json"))


def test_the_catalogues_list_everything_whole(cli: Cli) -> None:
    _, out, _ = cli("methods")
    for name, term in {**FORGET_TYPES, **REGULARIZER_TYPES}.items():
        assert f"  {name}: {term.title}\n" in out
        assert f"  source      {term.source}\n" in out
    assert "weight=0.1" in out  # ME's published weight, among its parameters
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    for row in resistances():
        score, low, high = row["robustness"]
        assert f"  attacked    {row['model']}: " in out
        assert f"; robustness {score:.2f} ({low:.2f} to {high:.2f})\n" in out
        assert re.search(
            rf"^\| {re.escape(row['model'])} \|.* {score:.2f} \({low:.2f} to {high:.2f}\)", page, re.MULTILINE
        )
    _, out, _ = cli("metrics")
    for name, metric in {**METRIC_TYPES, **COMPARISON_TYPES}.items():
        assert f"  {name}: {metric.title}\n" in out
    for suite in SUITES.values():
        assert f"  {suite.name}: {suite.title}\n" in out


def test_the_catalogues_list_what_is_asked_for(cli: Cli) -> None:
    def shown(*arguments: str) -> list[str]:
        _, out, error = cli(*arguments)
        assert not error
        return [found[1] for line in out.splitlines() if (found := re.match(r"  (\S+): ", line))]

    assert shown("methods", "npo") == ["npo"]  # the name itself, and not simnpo too
    assert shown("methods", "npo+gd") == ["npo", "gd"]
    assert shown("methods", "adversarial") == [
        name for name, each in {**FORGET_TYPES, **REGULARIZER_TYPES}.items() if "adversarial" in each.title.lower()
    ] + ["latent.layers=[8]"]
    assert "REGULARIZERS" not in cli("methods", "npo").out
    assert shown("metrics", "rouge", "rwku") == ["rouge", "rwku"]
    assert shown("attacks", "relearn") == ["relearn"]
    assert mistake(cli("methods", "nppo")) == "methods: nppo: in no name or title; did you mean npo?"
    assert mistake(cli("metrics", "rougue")) == "metrics: rougue: in no name or title; did you mean rouge?"
    assert mistake(cli("attacks", "relern")) == "attacks: relern: in no name or title; did you mean relearn?"


def test_the_version_and_completion(cli: Cli) -> None:
    assert cli("--version") == Result(0, f"obliviate {__version__}\n", "")
    assert "--install-completion" in cli("--help").out
    asked = {"_OBLIVIATE_COMPLETE": "complete_bash", "COMP_WORDS": "obliviate unl", "COMP_CWORD": "1"}
    done = subprocess.run([SCRIPT], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["unlearn"]


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
        now = {"s": 0.0}
        monkeypatch.setattr("obliviate_cli.progress.monotonic", lambda: now["s"])
        return now

    def lines(self, clock: dict[str, float], updates: dict[int, tuple[int, int]]) -> list[str]:
        """What is printed where nobody watches, when these updates come at these times."""
        out = StringIO()
        with progress(Console(file=out, width=40, soft_wrap=True), "work") as show:
            for now_s, (done, total) in updates.items():
                clock["s"] = now_s
                show(done, total, "d" * 60)
        return [line.removesuffix(" " + "d" * 60) for line in out.getvalue().splitlines()]

    def test_time_left_counts_from_the_first_step_and_not_from_start_up(self, clock: dict[str, float]) -> None:
        """100 s of start-up, then 10 s a step: at step 3 of 10, after 20 s for two steps, 70 s are left."""
        lines = self.lines(clock, {100: (1, 10), 110: (2, 10), 120: (3, 10), 190: (10, 10)})
        assert lines == ["work: 1/10", "work: 3/10, 70 s left", "work: 10/10"]

    def test_each_stage_counts_anew_and_ends_once(self, clock: dict[str, float]) -> None:
        updates = {0: (0, 4), 20: (2, 4), 40: (4, 4), 41: (4, 4), 100: (0, 8), 120: (4, 8), 140: (8, 8)}
        assert self.lines(clock, updates) == [
            "work: 2/4, 20 s left", "work: 4/4", "work: 0/8", "work: 4/8, 20 s left", "work: 8/8",
        ]  # fmt: skip

    def test_a_resumed_run_does_not_count_the_steps_before_it(self, clock: dict[str, float]) -> None:
        assert self.lines(clock, {100: (51, 60), 120: (53, 60)}) == ["work: 51/60", "work: 53/60, 70 s left"]

    def test_work_that_ends_early_says_where(self, clock: dict[str, float]) -> None:
        assert self.lines(clock, {100: (1, 5), 105: (3, 5)}) == ["work: 1/5", "work: 3/5"]

    def test_a_terminal_keeps_its_bar_whatever_the_details(self) -> None:
        out = StringIO()
        with progress(Console(file=out, width=60, force_terminal=True), "unlearn [x]") as show:
            show(3, 10, "loss 1.234 (me 3.4 gd [/INST]) " * 5)
        last = out.getvalue().split("\r")[-1]
        assert "unlearn [x]" in last
        assert "3/10" in out.getvalue()


def test_the_console_changes_nothing_of_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = "report: /runs/[abc]/:fire:/" + "long/" * 60
    open_console().print(text)
    assert capsys.readouterr().out == text + "\n"


def test_tables_in_logs_have_room() -> None:
    """Where output is no terminal, rich would take it for one of 80 columns."""
    assert open_console().width == 120
