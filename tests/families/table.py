"""docs/models.md: what each family does here, measured. `python -m families.table [FAMILY ...]` writes it, of the
families named or of all."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from families import checks
from families.zoo import BY_NAME, FAMILIES, Family, write
from obliviate.errors import UserError
from obliviate.inference.vllm import vllm_environment

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
COLUMNS = ("trains", "packed", "scores", "generates", "serves", "saves", "LoRA", "vLLM")


@lru_cache(maxsize=2)
def subject(name: str) -> checks.Subject:
    return checks.Subject(write(BY_NAME[name], scratch(name) / "model"))


def scratch(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"families-{name}-"))


def trains(family: Family) -> dict[str, str]:
    packed = checks.trains(subject(family.name))
    return {"trains": "yes", "packed": "yes" if packed else "padded"}


def scores(family: Family) -> dict[str, str]:
    checks.scores(subject(family.name))
    return {"scores": "yes"}


def generates(family: Family) -> dict[str, str]:
    checks.generates(subject(family.name))
    return {"generates": "yes"}


def serves(family: Family) -> dict[str, str]:
    checks.serves(subject(family.name))
    return {"serves": "yes"}


def saves(family: Family) -> dict[str, str]:
    checks.saves(subject(family.name), scratch(family.name) / "exported")
    return {"saves": "yes"}


def adapts(family: Family) -> dict[str, str]:
    checks.adapts(subject(family.name), scratch(family.name))
    return {"LoRA": "yes"}


def vllm(family: Family) -> dict[str, str]:
    """In a process of its own: vLLM reads its settings when it starts, and changes classes of transformers."""
    if not family.vllm:
        return {"vLLM": "not tried"}
    folder = scratch(family.name)
    models = [write(family, folder / str(seed), seed=seed) for seed in (0, 1)]
    answers = folder / "answers.json"
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment = os.environ | vllm_environment(gpu=checks.RUN.type == "cuda") | settings
    command = [sys.executable, "-m", "families.vllm_answers", *map(str, models), str(answers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(answers.read_text())
    if refused := found.get("refused"):
        raise UserError(refused)
    for answer, model in zip(found["answers"], (*models, models[0]), strict=False):
        asked = checks.Subject(model)
        checks.same(answer["logp"], asked.logp, "vLLM")
        assert answer["tokens"] == [list(checks.greedy(asked.plain, prompt)) for prompt in checks.prompts()]
    return {"vLLM": "yes, reloads" if len(found["answers"]) == 3 else "yes"}


CHECKS: dict[str, Callable[[Family], dict[str, str]]] = {
    each.__name__: each for each in (trains, scores, generates, serves, saves, adapts, vllm)
}
FILLS = {
    "trains": ("trains", "packed"),
    "adapts": ("LoRA",),
    "vllm": ("vLLM",),
}  # columns of a check; else its own name


def measured(check: str, family: Family) -> dict[str, str]:
    """The cells that a check fills: what it found, or the refusal. Raises AssertionError where numbers are wrong."""
    try:
        return CHECKS[check](family)
    except UserError as error:
        return dict.fromkeys(FILLS.get(check, (check,)), _refusal(str(error)))


def _refusal(line: str) -> str:
    """Without what lies only here."""
    return "refused: " + re.sub(r"\S*/families-\S+", "MODEL", line).replace("|", "/")


def documented(text: str | None = None) -> dict[str, dict[str, str]]:
    """The rows of the table: family -> column -> cell."""
    rows: dict[str, dict[str, str]] = {}
    for line in (text or DOCUMENT.read_text(encoding="utf-8")).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if len(cells) == len(COLUMNS) + 2 and (name := cells[0].strip("`")) in BY_NAME:
            rows[name] = dict(zip(COLUMNS, cells[2:], strict=True))
    return rows


def row(family: Family, cells: dict[str, str]) -> str:
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(family.model_config)].__name__
    return " | ".join([f"| `{family.name}`", f"`{architecture}`", *(cells[column] for column in COLUMNS)]) + " |"


def main(names: list[str]) -> None:
    rows = documented()
    for family in FAMILIES:
        if names and family.name not in names:
            continue
        cells: dict[str, str] = {}
        for check in CHECKS:
            cells |= measured(check, family)
        rows[family.name] = cells
        print(row(family, cells), flush=True)
    before, _, _ = DOCUMENT.read_text(encoding="utf-8").partition("\n| family |")
    head = f"| family | architecture | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}"
    body = [row(family, rows[family.name]) for family in FAMILIES if family.name in rows]
    DOCUMENT.write_text(before + "\n" + "\n".join([head, *body]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
