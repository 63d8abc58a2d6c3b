"""A hub on loopback: the read set of the Hugging Face protocol over real HTTP, from which `huggingface_hub` downloads too.

    with running_hub() as hub:
        model = hub.add("acme-ai/tiny", {"config.json": b"{}", "model.safetensors": path_or_bytes})
        Hub at hub.url, commit model.commit

A model keeps every commit it ever had. Tests change what the hub serves (`flip`), what it declares (`declare`), who may read
(`gated`), and where the bytes come from (`cdn`, another origin, by redirect). `sent_bytes` counts what left.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_BYTES = 1024 * 1024  # from here on, and by name, a file is in LFS
LFS_NAMES = re.compile(r"\.(safetensors|bin|gguf|pt)$")
_BLOCK = 256 * 1024


@dataclass
class Stored:
    """One file of a commit. `data` may be a path, for what is too big for memory."""

    data: bytes | Path
    size: int
    sha256: str
    git_sha1: str
    lfs: bool

    def read(self, start, stop):
        if isinstance(self.data, bytes):
            yield self.data[start:stop]
            return
        with self.data.open("rb") as file:
            file.seek(start)
            while start < stop and (block := file.read(min(_BLOCK, stop - start))):
                start += len(block)
                yield block


def stored(name, data):
    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    for block in Stored(data, size, "", "", False).read(0, size):
        sha256.update(block)
        sha1.update(block)
    lfs = size >= LFS_BYTES or bool(LFS_NAMES.search(name))
    return Stored(data, size, sha256.hexdigest(), sha1.hexdigest(), lfs)


@dataclass
class Model:
    name: str
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    card: dict[str, object] = field(default_factory=dict)
    gated_for: str | None = None  # the token that may read
    flipped: dict[str, int] = field(default_factory=dict)  # path -> offset of a byte that is sent wrong
    declared: dict[str, str] = field(default_factory=dict)  # path -> a digest that is declared instead
    hidden: set[str] = field(default_factory=set)  # paths or commits that are gone

    @property
    def commit(self):
        return self.branches["main"]

    def add(self, files):
        """A commit with these files, which `main` becomes."""
        commit = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = {name: stored(name, data) for name, data in files.items()}
        self.branches["main"] = commit
        return commit

    def resolve(self, revision):
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        return commit if commit in self.commits and commit not in self.hidden else None


class Server(ThreadingHTTPServer):
    """Counts what it sends, and remembers what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler):
        self.sent_bytes = Counter()  # by path of the file
        self.asked = []  # (method, path, headers)
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def total_sent(self):
        return sum(self.sent_bytes.values())

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class Hub(Server):
    def __init__(self):
        self.models = {}
        self.page = 1000  # entries of a tree in one answer
        self.cdn = None  # a `Server` that the bytes of LFS files come from
        self.bytes_a_second = None
        super().__init__(Handler)

    def add(self, name, files, **members):
        model = self.models.setdefault(name, Model(name))
        for member, value in members.items():
            setattr(model, member, value)
        model.add(files)
        return model


class Cdn(Server):
    """Where a hub redirects to: another origin, whose URLs carry a signature."""

    def __init__(self, hub):
        self.hub = hub
        super().__init__(CdnHandler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer_any(self):
        server = self.server
        with server.lock:
            server.asked.append((self.command, self.path, dict(self.headers)))
        self.route(urlsplit(self.path))

    do_GET = do_HEAD = do_POST = answer_any  # noqa: N815

    def route(self, parts):
        path = parts.path
        for pattern, answer in (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self.tree),
            (r"/api/models/([^/]+/[^/]+)/refs", self.refs),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.file),
        ):
            if match := re.fullmatch(pattern, path):
                name, *rest = (unquote(part) if part else None for part in match.groups())
                model = self.server.models.get(name)
                if model is None:
                    self.refuse(404, "RepoNotFound", "Repository not found")
                    return
                if model.gated_for and self.headers.get("Authorization") != f"Bearer {model.gated_for}":
                    self.refuse(401 if "Authorization" not in self.headers else 403, "GatedRepo", "gated")
                    return
                answer(model, *rest, parse_qs(parts.query))
                return
        self.refuse(404, "", "Not found")

    def info(self, model, revision, _query):
        commit = model.resolve(revision or "main")
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        files = model.commits[commit]
        self.json(
            {
                "_id": "0" * 24,
                "id": model.name,
                "modelId": model.name,
                "sha": commit,
                "private": False,
                "gated": "manual" if model.gated_for else False,
                "lastModified": "2026-11-24T00:00:00.000Z",
                "createdAt": "2026-11-24T00:00:00.000Z",
                "cardData": model.card,
                "tags": [f"license:{model.card['license']}"] if "license" in model.card else [],
                "siblings": [{"rfilename": name} for name in files],
            }
        )

    def tree(self, model, revision, query):
        commit = model.resolve(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        files = {name: file for name, file in model.commits[commit].items() if name not in model.hidden}
        folders = sorted({"/".join(name.split("/")[:at]) for name in files for at in range(1, name.count("/") + 1)})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
        for name, file in sorted(files.items()):
            entry = {"type": "file", "oid": file.git_sha1, "size": file.size, "path": name}
            digest = model.declared.get(name)
            if file.lfs:
                entry["lfs"] = {"oid": digest or file.sha256, "size": file.size, "pointerSize": 130}
            else:
                entry["oid"] = digest or file.git_sha1
            entries.append(entry)
        start = int(query.get("cursor", ["0"])[0])
        more = {}
        if start + self.server.page < len(entries):
            where = f"{self.server.url}{urlsplit(self.path).path}?recursive=true&cursor={start + self.server.page}"
            more = {"Link": f'<{where}>; rel="next"'}
        self.json(entries[start : start + self.server.page], more)

    def refs(self, model, _query):
        def listed(names, kind):
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in names.items()]

        self.json({"branches": listed(model.branches, "heads"), "tags": listed(model.tags, "tags"), "converts": []})

    def file(self, model, revision, name, _query):
        commit = model.resolve(revision)
        stored = model.commits[commit].get(name) if commit else None
        if stored is None or name in model.hidden:
            more = {"X-Repo-Commit": commit} if commit else {}
            self.refuse(404, "EntryNotFound" if commit else "RevisionNotFound", "Entry not found", more)
            return
        etag = f'"{stored.sha256 if stored.lfs else stored.git_sha1}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes"}
        if stored.lfs and self.server.cdn is not None:
            where = f"{self.server.cdn.url}/{quote(model.name)}/{commit}/{quote(name)}?X-Amz-Signature={'5' * 64}"
            self.plain(302, {**headers, "Location": where, "X-Linked-Size": str(stored.size), "X-Linked-ETag": etag})
            return
        self.bytes_of(model, name, stored, headers, self.server)

    def bytes_of(self, model, name, stored, headers, hub):
        """The file or a range of it, as a file server answers."""
        start, stop, status = 0, stored.size, 200
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = match.groups()
            start = int(first) if first else stored.size - int(last)
            stop = min(stored.size, int(last) + 1) if first and last else stored.size
            status = 206
            if start >= stored.size:
                self.plain(416, {**headers, "Content-Range": f"bytes */{stored.size}"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{stored.size}"}
        self.send_response_only(status)
        for header, value in {**headers, "Content-Length": str(stop - start)}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        offset = start
        for whole in stored.read(start, stop):
            for at in range(0, len(whole), _BLOCK):
                block = whole[at : at + _BLOCK]
                wrong = model.flipped.get(name, -1) - offset
                if 0 <= wrong < len(block):
                    block = block[:wrong] + bytes([block[wrong] ^ 1]) + block[wrong + 1 :]
                if hub.bytes_a_second:
                    threading.Event().wait(len(block) / hub.bytes_a_second)
                self.wfile.write(block)
                offset += len(block)
                with self.server.lock:
                    self.server.sent_bytes[name] += len(block)

    def json(self, value, headers=None):
        self.plain(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def refuse(self, status, code, text, headers=None):
        told = {"X-Error-Code": code, "X-Error-Message": text} if code else {}
        body = json.dumps({"error": text}).encode()
        self.plain(status, {"Content-Type": "application/json", **told, **(headers or {})}, body)

    def plain(self, status, headers, body=b""):
        self.send_response_only(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class CdnHandler(Handler):
    def route(self, parts):
        _, owner, name, commit, path = unquote(parts.path).split("/", 4)
        model = self.server.hub.models[f"{owner}/{name}"]
        self.bytes_of(model, path, model.commits[commit][path], {"Accept-Ranges": "bytes"}, self.server.hub)


@contextmanager
def running(server):
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def running_hub():
    return running(Hub())
