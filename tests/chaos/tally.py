"""docs/reliability.md: what was done to commands, how often, and how often they came through, as the last whole run of
the suite found it."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- chaos: begin -->\n", "<!-- chaos: end -->\n"
CAUSE_CHARACTERS = 160


@dataclass
class Row:
    tried: int = 0
    survived: int = 0
    causes: list[str] = field(default_factory=list)  # why it did not, or was not tried


class Tally:
    """Of the tries of one run of the suite; its seed determines them, but for what the machine's speed decides."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.left: list[str] = []  # behind by tries
        self._rows: dict[tuple[str, str], Row] = {}
        self._began_s = time.monotonic()

    @contextmanager
    def tried(self, kind: str, fault: str) -> Iterator[None]:
        """A try, which has been survived where the block ends without an error."""
        row = self._rows.setdefault((kind, fault), Row())
        row.tried += 1
        try:
            yield
        except BaseException as error:
            row.causes.append(_line(str(error) or type(error).__name__))
            raise
        row.survived += 1

    def skip(self, kind: str, fault: str, why: str) -> None:
        self._rows.setdefault((kind, fault), Row()).causes.append(f"not tried: {why}")
        pytest.skip(why)

    def written(self) -> str:
        """The part of the document that a run writes."""
        tried, survived = (sum(getattr(row, name) for row in self._rows.values()) for name in ("tried", "survived"))
        minutes = (time.monotonic() - self._began_s) / 60
        lines = [
            f"{datetime.now(UTC):%Y-%m-%d}, commit {_git('rev-parse', '--short=12', 'HEAD')}, seed {self.seed}, "
            f"{_processor()}, {os.cpu_count()} cores, Linux {platform.release().partition('-')[0]}: **{survived} of "
            f"{tried} survived**, in {minutes:.0f} minutes.",
            "",
            "| what | fault | tried | survived | |",
            "|---|---|---|---|---|",
            *(
                f"| {kind} | {fault} | {row.tried} | {row.survived} | {'; '.join(dict.fromkeys(row.causes))} |"
                for (kind, fault), row in self._rows.items()
            ),
            "",
            f"Left behind by all of this: {_counted(self.left)}.",
        ]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{self.written()}\n{END}{after}", encoding="utf-8")


def _line(text: str) -> str:
    """A cell of the table."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return re.sub(r"/tmp/\S*/", "…/", first).replace("|", "/").strip()[:CAUSE_CHARACTERS]


def _counted(left: Sequence[str]) -> str:
    """How many of each kind, and one of them."""
    counts = [
        f"{len(found)} of {kind}" + (f", such as `{found[0].partition(': ')[2]}`" if found else "")
        for kind in ("process", "shared memory", "temporary file")
        if (found := [each for each in left if each.startswith(kind)]) is not None
    ]
    return "; ".join(counts)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()
