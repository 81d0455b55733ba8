"""Lists that tables of text hold as text: in JSON, as Python shows them, or as NumPy does, without commas."""

import ast
import json
from io import StringIO
from tokenize import STRING, generate_tokens
from typing import Any


def listed(value: Any) -> Any:
    """The list that a text is of; anything else as it is, and so a list in which there is no text."""
    if not isinstance(value, str) or not (value.strip().startswith("[") and value.strip().endswith("]")):
        return value
    found = _parsed(value.strip())
    known = isinstance(found, list) and (not found or any(isinstance(item, str | list | dict) for item in found))
    return found if known else value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        return found
    # One by one: Python joins texts that stand beside each other, and NumPy parts its own by white space.
    tokens = generate_tokens(StringIO(text).readline)
    return [ast.literal_eval(token.string) for token in tokens if token.type == STRING]
