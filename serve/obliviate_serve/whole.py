"""A long answer as JSON, written in pieces: between two of them the server answers others."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.responses import Response


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def whole(head: Mapping[str, Any], key: str, items: Iterable[str]) -> Response:
    """`head` with a list under `key` behind it. The list's items are JSON, each made when its turn comes."""
    written = []
    for item in items:
        written.append(item)
        await asyncio.sleep(0)
    body = f'{compact(head)[:-1]},"{key}":[{",".join(written)}]}}'
    return Response(body.encode(), media_type="application/json")
