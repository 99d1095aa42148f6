"""A Hugging Face hub of one model on this machine: what huggingface_hub asks of the real one, served from a directory."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Where it listens, and what it was asked: method, path, token."""

    endpoint: str
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextlib.contextmanager
def serve(directory: Path, name: str, token: str | None = None) -> Iterator[Hub]:
    """Serve `directory` as the model `name`, main branch and a tag v1; with `token`, to those who show it only."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append((self.command, path, self.headers.get("Authorization")))
            if not path.startswith((f"/api/models/{name}/", f"/{name}/")):
                return self.answer(404, error="RepoNotFound")
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer(403, error="GatedRepo")
            kind, _, rest = path.removeprefix("/api/models").removeprefix(f"/{name}/").partition("/")
            if kind == "resolve":
                return self.answer(200, (directory / rest.partition("/")[2]).read_bytes())
            if rest not in ("main", "v1", COMMIT):
                return self.answer(404, error="RevisionNotFound")
            if kind == "revision":
                return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": self.digest(f.read_bytes())}
                for f in directory.iterdir()
            ]
            return self.answer(200, json.dumps(files).encode())

        @staticmethod
        def digest(content: bytes) -> str:
            return hashlib.sha1(content).hexdigest()

        def answer(self, status: int, content: bytes = b"", error: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{self.digest(content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
