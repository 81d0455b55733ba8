"""What axe's rules find wrong with a page: WCAG 2.2 AA, and best practices."""

from pathlib import Path
from typing import Any

import pytest


def findings(page: Any) -> list[str]:
    """Run by the browser itself, which the page's own policy does not bind."""
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{each['id']}: {node['html'][:200]} {node['failureSummary']}" for each in found for node in each["nodes"]]
