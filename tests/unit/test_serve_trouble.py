"""What the operator is shown of what goes wrong, with the request that met it."""

import logging
from pathlib import Path

from fastapi.testclient import TestClient

from obliviate_serve.trouble import KEPT, Trouble
from serving import FakeBackend, fake_server

log = logging.getLogger("obliviate_serve.anything")


def test_a_line_each_with_the_requests_id(tmp_path: Path) -> None:
    trouble = Trouble()
    log.addHandler(trouble)
    try:

        class Failing(FakeBackend):
            async def complete(self, *_: object) -> list[object]:  # type: ignore[override]
                try:
                    raise ZeroDivisionError("of\nnothing")
                except ZeroDivisionError as error:
                    log.exception("original failed")
                    raise self.fails or error from error

        from obliviate_serve.errors import unavailable

        backend = Failing()
        backend.fails = unavailable("x")
        client = TestClient(fake_server(tmp_path, backend))
        asked = {"model": "original", "prompt": "x"}
        client.post("/v1/completions", json=asked, headers={"x-request-id": "mine-1"})
        log.warning("beside any request")
        log.info("nothing wrong")
    finally:
        log.removeHandler(trouble)
    assert trouble.take() == [
        "original failed: ZeroDivisionError: of nothing (request mine-1)",
        "beside any request",
    ]
    assert trouble.take() == []


def test_the_oldest_give_way() -> None:
    trouble = Trouble()
    for number in range(KEPT + 2):
        trouble.handle(logging.LogRecord("x", logging.ERROR, "", 0, f"{number}", None, None))
    assert trouble.take()[0] == "2"
    trouble.handle(logging.LogRecord("x", logging.ERROR, "", 0, "x" * 5000, None, None))
    assert trouble.take() == ["x" * 2000]
