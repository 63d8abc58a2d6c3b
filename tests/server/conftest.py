"""What the server's tests share: plain HTTP without our client in between, small artifacts, and a registry a module."""

import http.client
import json
import uuid
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from modelreg import hashing, manifests, push, signing, statements, trees, wire
from modelreg.api import Api
from modelreg.manifests import Manifest
from modelreg.references import parse_reference
from support.registry import QUIET, Registry, running_registry


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem's code; asserts that it is a problem, said as one."""
        assert self.headers["content-type"] == "application/problem+json", self
        assert self.json["status"] == self.status
        assert self.json["detail"]
        assert self.json["instance"].startswith("urn:modelreg:request:")
        return self.json["type"].removeprefix("urn:modelreg:problem:")

    @property
    def same_for_all(self) -> tuple[int, Any]:
        """What an observer sees, apart from the request's own id."""
        return self.status, {name: value for name, value in self.json.items() if name != "instance"}


class Http:
    """HTTP/1.1 by hand: whatever a test wants to send is sent as it is."""

    def __init__(self, url: str) -> None:
        self.netloc = urlsplit(url).netloc

    def __call__(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        json: Any = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token}")
        if json is not None:
            body = _dumped(json)
            sent.setdefault("Content-Type", "application/json")
        with closing(http.client.HTTPConnection(self.netloc, timeout=30)) as connection:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value.encode("latin-1"))
            if body is not None or method in {"POST", "PUT"}:
                connection.putheader("Content-Length", str(len(body or b"")))
            try:
                connection.endheaders(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it answered before the body was read, and that answer is what we want
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


class Publishing:
    """Small artifacts for a registry, whole or step by step."""

    def __init__(self, registry: Registry, folder: Any) -> None:
        self.registry = registry
        self._folder = folder

    def make(self, files: dict[str, bytes]) -> Any:
        root = self._folder / uuid.uuid4().hex
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    def manifest(self, files: dict[str, bytes]) -> Manifest:
        return manifests.build(hashing.hash_tree(self.make(files), left_out=trees.LEFT_OUT))

    def request(
        self, manifest: Manifest, *tags: str, signer: signing.Signer | None = None, name: str = "m"
    ) -> wire.PublicationRequest:
        bundle = signing.sign(statements.build(name, manifest), signer or self.registry.trust.signer)
        return wire.PublicationRequest(manifest=manifest.raw.decode(), bundle=bundle.decode(), tags=list(tags))

    def push(
        self,
        files: dict[str, bytes],
        repository: str = "demo/m",
        *,
        tags: tuple[str, ...] = (),
        api: Api | None = None,
        signer: signing.Signer | None = None,
    ) -> push.Pushed:
        return push.push(
            api or self.registry.api(),
            self.make(files),
            parse_reference(repository),
            signer or self.registry.trust.signer,
            tags=tags,
            connections_at_once=2,
            meter=QUIET,
        )

    def upload(self, api: Api, publication: str, blob: str, data: bytes, *, measure: bool = True) -> None:
        """Send a blob of one part."""
        api.uploads(publication, [blob])
        request = api.part_requests(publication, [wire.PartName(blake3=blob, number=1)])[0]
        api.open_direct(request, {"Content-Length": str(len(data))}, data).close()
        if measure:
            assert api.measure(publication, blob).state == "measured"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """One registry on SQLite and a directory for all tests of a module."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def own_registry(tmp_path):
    """A registry for one test."""
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def http_(registry):
    return Http(registry.url)


@pytest.fixture(scope="module")
def publishing(registry, tmp_path_factory):
    return Publishing(registry, tmp_path_factory.mktemp("models"))


@pytest.fixture
def http_to():
    return Http


@pytest.fixture
def publishing_to(tmp_path):
    return lambda registry: Publishing(registry, tmp_path / "models")
