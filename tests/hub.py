"""A stand-in for the Hugging Face hub's HTTP API, as far as a push needs it, on loopback."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SMALL = 5_000_000  # bytes of a file that comes in the commit itself


@dataclass
class Hub:
    url: str = ""
    token: str = "hf_right"
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> what it was created with
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repo -> name -> content
    blobs: dict[str, bytes] = field(default_factory=dict)  # sha256 -> content
    models: dict[str, dict[str, Any]] = field(default_factory=dict)  # of other people: name -> metadata of its card
    commits: int = 0


@contextmanager
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def _answer(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _refused(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {state.token}":
                return False
            self._body()
            self._answer(401, {"error": "Invalid user token."})
            return True

        def do_GET(self) -> None:
            if self.path == "/api/whoami-v2":
                if not self._refused():
                    self._answer(200, {"type": "user", "name": "org", "auth": {}})
            elif (name := self.path.removeprefix("/api/models/").partition("?")[0]) in state.models:
                self._answer(200, {"id": name, "cardData": state.models[name], "siblings": [], "tags": []})
            else:
                self._answer(404, {"error": "Repository not found"})

        def do_POST(self) -> None:
            if self._refused():
                return
            body = self._body()
            if self.path == "/api/repos/create":
                told = json.loads(body)
                name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
                if not name.startswith("org/"):
                    self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
                    return
                state.repos.setdefault(name, told)
                self._answer(200, {"url": f"{state.url}/{name}", "id": name, "name": name})
            elif self.path == "/api/validate-yaml":
                self._answer(200, {"errors": [], "warnings": []})
            elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
                files = json.loads(body)["files"]
                modes = [{"path": each["path"], "uploadMode": "lfs" if each["size"] > SMALL else "regular",
                          "shouldIgnore": False, "oid": None} for each in files]  # fmt: skip
                self._answer(200, {"files": modes})
            elif found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
                objects = [{**each, "actions": {"upload": {"href": f"{state.url}/blobs/{each['oid']}", "header": {}}}}
                           for each in json.loads(body)["objects"]]  # fmt: skip
                self._answer(200, {"transfer": "basic", "objects": objects})
            elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
                kept = state.files.setdefault(found[1], {})
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "lfsFile":
                        kept[line["value"]["path"]] = state.blobs[line["value"]["oid"]]
                state.commits += 1
                self._answer(200, {"commitUrl": f"{state.url}/{found[1]}/commit/1", "commitOid": "1"})
            else:
                self._answer(404, {"error": self.path})

        def do_PUT(self) -> None:
            state.blobs[self.path.removeprefix("/blobs/")] = self._body()
            self._answer(200, {})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
