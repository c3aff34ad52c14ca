"""A small Hugging Face hub on the loopback: the parts of its HTTP API that a bundle's way there and back needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_loopback"


@dataclass
class Repository:
    """Commits, the oldest first, each all of its files; and where branches and tags point."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, changes: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit to a branch; gives its id."""
        files = (self.files(ref) or {}) | changes
        number = str(len(self.commits)).encode()
        sha = hashlib.sha1(number + b"".join(name.encode() + data for name, data in files.items())).hexdigest()
        self.commits.append((sha, files))
        self.refs[ref] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """A branch's, tag's or commit's id."""
        found = self.refs.get(revision, revision)
        return found if any(sha == found for sha, _ in self.commits) else None

    def files(self, revision: str) -> dict[str, bytes] | None:
        """The files of a revision."""
        sha = self.resolve(revision)
        return next((files for known, files in self.commits if known == sha), None)


class LoopbackHub:
    """The server, running; `repositories` is what it holds, `requests` what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.listed_size: dict[str, int] = {}  # file -> a size to claim for it
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetched(self) -> list[str]:
        """The files whose content was fetched."""
        return [line.split("/")[-1] for line in self.requests if re.match("GET .*/resolve/", line)]


class _Handler(BaseHTTPRequestHandler):
    server_hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server_hub.requests.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._model(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], found[3])
        else:
            self._answer(404, {"error": f"no {path}"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub.requests.append(f"{self.command} {path}")
        if path == "/api/validate-yaml":
            self._card(json.loads(body)["content"])
            return
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                self._answer(409, {"error": "You already created this model repo"})
            else:
                hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
                hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
                self._answer(200, {"url": f"{hub.endpoint}/{name}"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(found[1], found[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": f"no {path}"})

    def do_PUT(self) -> None:
        data = self._body()
        oid = self.path.split("/")[-1]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server_hub.blobs[oid] = data
        self._answer(200, {})

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        data = b""
        while size := int(self.rfile.readline(), 16):  # chunked
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _repository(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.server_hub.repositories.get(name)
        allowed = (repository and not repository.private) or self.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository is None or not allowed:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        sha, files = repository.resolve(revision), repository.files(revision)
        if sha is None or files is None:
            self._answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return sha, files

    def _model(self, name: str, revision: str) -> None:
        if found := self._repository(name, revision):
            sizes = {file: self.server_hub.listed_size.get(file, len(data)) for file, data in found[1].items()}
            siblings = [{"rfilename": file, "size": size} for file, size in sizes.items()]
            self._answer(200, {"id": name, "modelId": name, "sha": found[0], "siblings": siblings, "tags": []})

    def _file(self, name: str, revision: str, file: str) -> None:
        if found := self._repository(name, revision):
            sha, files = found
            if file not in files:
                self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            etag = hashlib.sha256(files[file]).hexdigest()
            self._answer(200, files[file], {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})

    def _card(self, content: str) -> None:
        """As the hub checks a card: the front matter is YAML, `license` one of its names, `other` with its own name."""
        front = yaml.safe_load(content.split("---\n")[1])
        problems = []
        if front.get("license") not in (None, "apache-2.0", "mit", "cc-by-4.0", "other"):
            problems.append({"message": f'"license" must be one of the list, not {front["license"]}'})
        if front.get("license") == "other" and not re.fullmatch(r"[a-z0-9.-]+", front.get("license_name", "")):
            problems.append({"message": '"license_name" must be a slug'})
        self._answer(400 if problems else 200, {"errors": problems, "warnings": []})

    def _commit(self, name: str, revision: str, lines: list[dict[str, Any]]) -> None:
        changes = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.server_hub.blobs[value["oid"]]
        sha = self.server_hub.repositories[name].commit(changes, revision)
        self._answer(200, {"commitUrl": f"{self.server_hub.endpoint}/{name}/commit/{sha}", "commitOid": sha})

    def _answer(self, status: int, content: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
