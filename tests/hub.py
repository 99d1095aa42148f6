"""A Hugging Face hub on this machine: what huggingface_hub asks of the real one. One model served from a directory, or uploads."""

import base64
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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()


@dataclass
class Uploads:
    """Where it listens; what was committed, {repository: {file: content}}; the paths of requests; repositories that were made: what
    the client said of them; whether the storage of weights refuses them."""

    endpoint: str
    committed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    made: dict[str, dict] = field(default_factory=dict)
    broken: bool = False


@contextlib.contextmanager
def receive(token: str) -> Iterator[Uploads]:
    """A hub that takes uploads to `someone/…` from those who show the token, weights by Git LFS; to none else may be written."""

    class Handler(http.server.BaseHTTPRequestHandler):
        large: dict[str, bytes] = {}  # noqa: RUF012 - of this hub
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.large[self.path.removeprefix("/storage/")] = self.body()
            self.answer(*((400, {"error": "no"}) if hub.broken else (200,)))

        def do_POST(self) -> None:
            body, path = self.body(), urlsplit(self.path).path
            hub.requests.append(path)
            if self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer(401, {"error": "Invalid username or password."})
            if path == "/verify":
                return self.answer(200)
            if path == "/api/validate-yaml":
                wrong = [{"message": '"license" is none'}] if b"license: none" in body else []
                return self.answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
            if path.endswith("/commit/main"):
                return self.answer(
                    200, self.commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)
                )
            said = json.loads(body)
            if path == "/api/repos/create":
                owner = said.get("organization") or "someone"
                if owner != "someone":
                    return self.answer(403, {"error": f"{token}: you don't have the rights to create a model there"})
                name = f"{owner}/{said['name']}"
                hub.made[name] = said
                return self.answer(200, {"url": f"{hub.endpoint}/{name}"})
            if path.endswith("/preupload/main"):
                mode = lambda name: "lfs" if name.endswith(".safetensors") else "regular"
                files = [
                    {"path": one["path"], "uploadMode": mode(one["path"]), "shouldIgnore": False}
                    for one in said["files"]
                ]
                return self.answer(200, {"files": files})
            assert path.endswith(".git/info/lfs/objects/batch"), path
            actions = lambda oid: {
                "upload": {"href": f"{hub.endpoint}/storage/{oid}"},
                "verify": {"href": f"{hub.endpoint}/verify"},
            }
            objects = [{**one, "actions": actions(one["oid"])} for one in said["objects"]]
            return self.answer(200, {"transfer": "basic", "objects": objects})

        def commit(self, name: str, body: bytes) -> dict:
            files = hub.committed.setdefault(name, {})
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    content = files[value["path"]] = self.large[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
            url = f"{hub.endpoint}/{name}/commit/{COMMIT}"
            return {"success": True, "commitUrl": url, "commitOid": COMMIT}

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def answer(self, status: int, content: object = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub = Uploads(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()
