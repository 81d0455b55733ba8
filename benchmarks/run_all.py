"""Runs every benchmark of this folder with --quick --json, and appends the dated results to LOG.md.

A benchmark that fails is logged as failed, and makes this exit with 1.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from obliviate.runs import provenance, write_whole
from obliviate_recipes.reporting import machine

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Result:
    name: str
    figures: dict[str, Any] | None  # None: it failed
    seconds: float
    error: str = ""


def main() -> int:
    results = [run(script) for script in benchmarks(HERE)]
    append(HERE / "LOG.md", results)
    return int(any(result.figures is None for result in results))


def benchmarks(folder: Path) -> list[Path]:
    """Every script but this one and those that begin with _, which the others share."""
    return sorted(path for path in folder.glob("[!_]*.py") if path.name != Path(__file__).name)


def run(script: Path) -> Result:
    print(f"{script.stem} ...", flush=True)
    began_s = time.monotonic()
    done = subprocess.run([sys.executable, script, "--quick", "--json"], stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - began_s
    if done.returncode != 0:
        return Result(script.stem, None, seconds, f"exit code {done.returncode}")
    last = done.stdout.rstrip("\n").rpartition("\n")[2]
    try:
        figures = json.loads(last)
    except json.JSONDecodeError:
        figures = None
    if not isinstance(figures, dict):
        return Result(script.stem, None, seconds, f"the last line is no JSON object: {last[:200]!r}")
    return Result(script.stem, figures, seconds)


def append(log: Path, results: list[Result]) -> None:
    """One entry of all results, at the end of the log."""
    text = log.read_text(encoding="utf-8") + "\n" + entry(results)
    write_whole(log, lambda path: path.write_text(text, encoding="utf-8"))


def entry(results: list[Result]) -> str:
    found = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, revision {found['git_revision']}",
        "",
        machine(),
        "",
        versions,
        "",
    ]
    for result in results:
        lines += [f"### {result.name} ({result.seconds:.0f} s)", ""]
        if result.figures is None:
            lines += [f"Failed: {result.error}.", ""]
        else:
            lines += ["```json", json.dumps(result.figures, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
