"""The journal: one JSON object for each request, to the access log; with what was asked, to the audit log."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from obliviate_serve.spec import ServeRun

AUDITED = ("models", "prompts", "attacks", "user")  # of a request's record, for the audit log alone
ASKING = ("POST", "PUT", "DELETE")  # the audit log has these even where they were refused before they were read


class Journal:
    """Files are opened again when something rotates them."""

    def __init__(self, spec: ServeRun) -> None:
        self._access = _log("access", spec.access_log)
        self._audit = None if spec.audit.file is None else _log("audit", spec.audit.file)
        self._prompts = spec.audit.prompts

    def asked(self, record: dict[str, Any], models: Sequence[str], prompts: Sequence[Any], **more: Any) -> None:
        """Note in the request's record what it asks of which models."""
        record["models"] = list(models)
        record |= {key: value for key, value in more.items() if value}
        if self._audit is not None and self._prompts != "none":
            texts = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in prompts]
            record["prompts"] = texts if self._prompts == "text" else [text_hash(text) for text in texts]

    def write(self, record: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        public = {key: value for key, value in record.items() if key not in AUDITED}
        self._access.info(json.dumps({"time": time, **public}))
        if self._audit is not None and record["method"] in ASKING:
            self._audit.info(json.dumps({"time": time, **record}))


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _log(name: str, file: str | None) -> logging.Logger:
    """A logger of its own for each server in a process."""
    log = logging.Logger(f"obliviate_serve.{name}", logging.INFO)
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    log.addHandler(logging.StreamHandler(sys.stderr) if file is None else PrivateFile(file, encoding="utf-8"))
    return log


class PrivateFile(WatchedFileHandler):
    """Made for its owner alone: it says who asked what."""

    def _open(self) -> TextIOWrapper:
        opener = partial(os.open, mode=0o600)
        return open(self.baseFilename, "a", encoding=self.encoding, opener=opener)
