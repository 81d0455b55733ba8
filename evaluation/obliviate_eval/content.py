"""What figures depend on besides their records, judges and config: what the suite holds, and the code that computes it.

Both are in the hash of a run, so that no figure stands beside one of the same name that was computed otherwise.
"""

from functools import cache
from pathlib import Path

from obliviate.runs import content_hash
from obliviate_eval.suites.base import Suite

CODE = ("aggregates.py", "forget_quality.py", "judges/*", "judges/prompts/*", "metrics/*", "statistics.py",
        "summary.py", "words.py")  # fmt: skip


def content_of_suite(suite: Suite) -> str:
    """Not its title; of an aggregate, the name of what combines its numbers."""
    combined = [
        [
            *(each.name, each.roles, each.metrics, each.parts, each.sets, each.tasks, each.turned),
            getattr(each.combine, "__qualname__", None),
        ]
        for each in suite.aggregates
    ]
    asked = [each.model_dump(mode="json") for each in (*suite.metrics, *suite.comparisons)]
    return content_hash([asked, combined, dict(suite.premise), {name: list(of) for name, of in suite.sets.items()}])


@cache
def content_of_code(package: Path = Path(__file__).parent) -> str:
    """Of the files that figures are computed by: another version of one of them computes others."""
    files = sorted(path for pattern in CODE for path in package.glob(pattern) if path.is_file())
    return content_hash({str(path.relative_to(package)): path.read_text(encoding="utf-8") for path in files})
