"""A stub of the Hugging Face Hub on this machine: it creates repositories, takes commits and serves their files."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

TOKEN = "hf_stub"
COMMIT = "0123456789" * 4


@dataclass
class Hub:
    """The files of each repository, by "owner/name". `refusal` is an HTTP status that all requests get."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusal: int = 0


class Answer(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.refusal or self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._json({"error": "no rights"}, self.hub.refusal or 401)
        address = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            return self._json({"url": f"{address}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        name = re.fullmatch(r"/api/models/(.*)/(?:preupload|commit)/main", self.path).group(1)
        if "/preupload/" in self.path:
            kept = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": file["path"], **kept} for file in json.loads(body)["files"]]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self._json({"commitUrl": f"{address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_GET(self) -> None:
        found = re.fullmatch(r"/(.*)/resolve/\w+/(.*)", self.path)
        content = self.hub.repositories.get(found[1], {}).get(found[2]) if found else None
        if content is None:
            return self._send(b"", self.hub.refusal or 404, {"X-Error-Code": "EntryNotFound"})
        self._send(content, 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def _json(self, content: dict[str, Any], status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Serve a hub to the client of this process, which is logged in and caches below `cache`."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("HubAnswer", (Answer,), {"hub": hub})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address, constants = f"http://127.0.0.1:{server.server_address[1]}", huggingface_hub.constants
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        server.shutdown()
