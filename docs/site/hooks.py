"""What the site does to a page before it is rendered."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!adr/)(?P<path>[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository that are no pages name the file instead."""

    def named(found: re.Match[str]) -> str:
        inside = page.file.src_uri.startswith("adr/") and found[0].count("../") == 1
        return found[0] if inside else f"{found[1]} (`{found['path']}` in the repository)"

    return OUTSIDE.sub(named, markdown)
