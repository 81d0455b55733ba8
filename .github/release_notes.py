"""What CHANGELOG.md says of a version: `python .github/release_notes.py 0.1.0`, for the text of a release."""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def notes(changelog: str, version: str) -> str:
    """The version's section without its heading. Raises ValueError where there is none."""
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if re.match(rf"\[{re.escape(version)}\]", heading):
            return text.strip() + "\n"
    raise ValueError(f"CHANGELOG.md has no section ## [{version}]")


if __name__ == "__main__":
    try:
        print(notes(CHANGELOG.read_text(encoding="utf-8"), sys.argv[1].removeprefix("v")), end="")
    except (IndexError, ValueError) as error:
        sys.exit(f"error: {error}")
