"""The image as its Dockerfile describes it."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def dockerfile() -> str:
    return (ROOT / "image" / "Dockerfile").read_text(encoding="utf-8")
