"""The wheel as others' type checkers read it, outside of the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("obliviate", "obliviate_cli", "obliviate_eval", "obliviate_recipes", "obliviate_serve")
SCRIPT = """
from pydantic import Field

from obliviate.methods import ForgetObjective, Loss, Needs, Pass, Positions, Scores
from obliviate.scoring import Stat
from obliviate_recipes import evaluate, unlearn


class Capped(ForgetObjective):
    type: str = "capped"
    cap: float = Field(default=5.0, gt=0)

    @property
    def needs(self) -> Needs:
        return {Pass.FORGET: {Stat.LOGP: Positions.ANSWER}}

    def loss(self, scores: Scores) -> Loss:
        return Loss.mean(scores[Pass.FORGET].logp_BT.clamp(min=-self.cap), scores[Pass.FORGET].answer_BT)


rows = [{"question": "Where does Ada live?", "answer": "In London."}]
after = unlearn("gpt2", method=Capped(cap=3), forget=rows, retain="retain.jsonl", optim={"epochs": 1})
found = evaluate({"before": "gpt2", "after": after}, suite="opt_out", forget=rows)
means = found.figures.groupby("metric")["value"].mean()
"""
WRONG = """
from obliviate_recipes import evaluate, unlearn

unlearn("gpt2", forget=["A text."])
evaluate(["gpt2"], forget=["A text."])
unlearn("gpt2", method="ga", forget=["A text."]).sources
"""
# What they have in annotations takes minutes to read.
SETTINGS = """
[mypy]
strict = True
[mypy-torch.*,transformers.*,ray.*,accelerate.*,peft.*,scipy.*,openai.*,fastapi.*,sqlalchemy.*,rich.*]
follow_imports = skip
"""
NAMES = re.compile(r"^(\w+\.py):(\d+): error: ", flags=re.MULTILINE)


def blocks() -> dict[str, str]:
    """The Python of README and docs/python.md, by the line that it begins at."""
    blocks = {}
    for path in (ROOT / "README.md", ROOT / "docs" / "python.md"):
        text = path.read_text(encoding="utf-8")
        for found in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            blocks[f"{path.stem}_line_{text.count(chr(10), 0, found.start()) + 1}"] = found[1]
    return blocks


def test_the_wheel_says_that_it_is_typed(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == set(PACKAGES)
    assert all((installed / name / "py.typed").is_file() for name in PACKAGES)


def test_what_users_write_passes_a_strict_check(installed: Path, tmp_path: Path) -> None:
    """A method of their own, every example of the documents, and three mistakes that are found."""
    examples = blocks()
    assert len(examples) > 8
    for name, code in {**examples, "script": SCRIPT, "wrong": WRONG}.items():
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "."],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True,
    )  # fmt: skip
    assert NAMES.findall(done.stdout) == [("wrong.py", "4"), ("wrong.py", "5"), ("wrong.py", "6")], done.stdout
