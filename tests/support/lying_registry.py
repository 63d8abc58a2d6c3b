"""A registry of its own that can tell one lie: log, keys, artifacts, bytes and HTTP, with a hook at every answer.

In the spirit of python-tuf's repository simulator. Without a lie it is honest, and the client admits what it serves. A lie
is a function that changes one hook; everything else stays true, so that nothing but the lie can be what is refused.

    tag(answer)                the answer to `GET …/tags/{tag}`, a dict
    members(entry)             the custody entry of the grant, before it is appended and proven
    proof(Proof)               the parts of the receipt, before they are written as text
    receipt(text)              the receipt
    consistency(hashes)        bytes of the consistency proof
    grant(answer)              the answer to `POST …/grants`, a dict
    requests(answer)           the answer to `POST …/read-requests`
    recorded(answer)           the answer to the report that everything arrived
    http[point](status, headers, body)   the HTTP answer itself; points: tag, grant, requests, blob, recorded
"""

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import checkpoints, manifests, merkle, notes, pki, receipts, signing, statements, trust
from modelreg.canonical import canonical_json
from modelreg.manifests import FileEntry, Manifest
from support import keys
from support.policies import certificate_authority, policy_toml, rule

ORIGIN = "registry.test/log"
HOST = "gpu-1"
NEVER = object()  # a body that does not end
CHUNK = manifests.CHUNK_BYTES


def same(value: Any) -> Any:
    return value


def same_http(status: int, headers: dict[str, str], body: Any) -> tuple[int, dict[str, str], Any]:
    return status, headers, body


@dataclass(frozen=True)
class Proof:
    """The parts of a receipt."""

    entry: bytes
    index: int
    path: list[bytes]
    note: bytes


class Log:
    """A Merkle log in memory."""

    def __init__(self, entries: list[bytes] | None = None) -> None:
        self.entries = list(entries or [])

    def append(self, members: dict[str, Any]) -> int:
        self.entries.append(members if isinstance(members, bytes) else canonical_json(members))
        return len(self.entries) - 1

    def reader(self) -> merkle.NodeReader:
        tree = merkle.Growing(0, [])
        for entry in self.entries:
            tree.append(merkle.leaf_hash(entry))
        found = {(level, index): value for level, index, value in tree.finished}
        return lambda nodes: [found[node] for node in nodes]

    def root(self, size: int | None = None) -> bytes:
        return merkle.root(len(self.entries) if size is None else size, self.reader())

    def inclusion(self, index: int, size: int) -> list[bytes]:
        return list(merkle.inclusion(index, size, self.reader()))

    def consistency(self, old: int, new: int) -> list[bytes]:
        return list(merkle.consistency(old, new, self.reader()))


@dataclass
class Artifact:
    """A signed artifact with its bytes."""

    repository: str
    manifest: Manifest
    bundle: bytes
    blobs: dict[str, bytes]


class World:
    """Keys, artifacts and the policy that pins them; made once, shared by every simulator."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.log_key, self.other_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.witness_keys = {f"witness-{n}.test": Ed25519PrivateKey.generate() for n in (1, 2)}
        self.chain = keys.make_chain("acme", now - timedelta(days=2))
        self.strangers = keys.make_chain("strangers", now - timedelta(days=2))
        leaf = pki.issue_signer("email:al@acme.example", self.chain.intermediate, now, 90)
        other = pki.issue_signer("email:eve@acme.example", self.chain.intermediate, now, 90)
        revoked = pki.issue_signer("email:gone@acme.example", self.chain.intermediate, now, 90)
        expired = pki.issue_signer("email:al@acme.example", self.chain.intermediate, now - timedelta(days=30), 1)
        stranger = pki.issue_signer("email:al@acme.example", self.strangers.intermediate, now, 90)
        certified = keys.certificate_signer
        self.signer = certified(leaf, self.chain.intermediate)
        self.other_signer = certified(other, self.chain.intermediate)
        self.revoked_signer = certified(revoked, self.chain.intermediate)
        self.expired_signer = certified(expired, self.chain.intermediate)
        self.stranger = certified(stranger, self.strangers.intermediate)
        big = b"\0" * CHUNK + b"\1" * CHUNK
        self.old = self.artifact("demo/m", {"config.json": b"{}", "w.bin": b"old" * 100})
        self.artifact_ = self.artifact("demo/m", {"config.json": b"{ }", "w.bin": b"new" * 100, "big.bin": big})
        self.elsewhere = self.artifact("other/x", {"w.bin": b"bad" * 100}, self.other_signer)
        self.revoked = self.artifact("demo/m", {"w.bin": b"rev" * 100})
        policy = policy_toml(
            certificate_authority("corp", self.chain.root),
            rules=[
                rule(["demo/*"], {"corp": ["email:al@acme.example", "email:gone@acme.example"]}),
                rule(["other/*"], {"corp": ["email:eve@acme.example"]}),
            ],
            expires=now + timedelta(days=30),
            updated_at=now - timedelta(hours=1),
            revoked_artifacts=[self.revoked.manifest.digest],
            revoked_signers=[{"identity": "email:gone@acme.example"}],
        )
        witnesses = [
            str(notes.key_of(name, notes.COSIGNATURE, key.public_key())) for name, key in self.witness_keys.items()
        ]
        self.policy_text = policy + "\n".join(
            [
                "[log]",
                f'origin = "{ORIGIN}"',
                f"keys = {json.dumps([str(notes.key_of(ORIGIN, notes.ED25519, self.log_key.public_key()))])}",
                f"witnesses = {json.dumps(witnesses)}",
                "required_witnesses = 2",
                "max_offline_seconds = 3600",
                "",
            ]
        )
        self.policy = trust.parse(self.policy_text.encode())

    def artifact(self, repository: str, files: dict[str, bytes], signer: signing.Signer | None = None) -> Artifact:
        manifest = manifests.build([entry_of(path, data) for path, data in files.items()])
        bundle = signing.sign(statements.build("m", manifest), signer or self.signer)
        return Artifact(repository, manifest, bundle, {blake3(data).hexdigest(): data for data in files.values()})

    def signed(self, manifest: Manifest, signer: signing.Signer) -> bytes:
        return signing.sign(statements.build("m", manifest), signer)


def entry_of(path: str, data: bytes) -> FileEntry:
    import hashlib

    chunks = tuple(blake3(data[at : at + CHUNK]).hexdigest() for at in range(0, len(data), CHUNK))
    return FileEntry(
        path, len(data), hashlib.sha256(data).hexdigest(), blake3(data).hexdigest(), chunks if len(chunks) > 1 else ()
    )


class LyingRegistry:
    """One registry, honest until a hook is changed."""

    def __init__(self, world: World, log: Log | None = None) -> None:
        self.world = world
        self.log = Log(log.entries) if log is not None else self._first_log()
        self.serving = world.artifact_
        self.tag_version = 1
        self.tag = self.members = self.proof = self.receipt = self.consistency = same
        self.grant = self.requests = self.recorded = same
        self.http: dict[str, Callable[..., Any]] = {}
        self.grants: dict[str, dict[str, Any]] = {}
        self.seen: list[str] = []
        self.checkpoint: Callable[[Log], bytes] = self.honest_checkpoint

    def _first_log(self) -> Log:
        log = Log()
        log.append(self.entry("artifact.published", artifact=str(self.world.old.manifest.digest)))
        log.append(self.entry("tag.moved", tag="v1", artifact=str(self.world.artifact_.manifest.digest)))
        return log

    def entry(self, kind: str, **more: Any) -> dict[str, Any]:
        """A custody entry as the real registry writes it."""
        members = {
            "v": 2, "type": kind, "time": datetime.now(UTC).isoformat(timespec="microseconds"), "actor": "a" * 64,
            "about": None, "repository": "demo/m", "artifact": None, "tag": None, "host": None, "verified_host": None,
            "purpose": None, "detail": {},
        }  # fmt: skip
        return {**members, **more}

    def other_events(self, count: int) -> None:
        """What others did meanwhile."""
        for n in range(count):
            self.log.append(self.entry("artifact.received", host=f"h{n}"))

    def note(self, size: int, root: bytes, key: Ed25519PrivateKey | None = None, origin: str = ORIGIN) -> bytes:
        """A checkpoint with nobody's cosignature."""
        return checkpoints.sign(origin, size, root, key or self.world.log_key)

    def cosigned(self, note: bytes, *names: str, text: bytes | None = None) -> bytes:
        """The note with signatures of these witnesses."""
        body = text or note.partition(b"\n\n")[0] + b"\n"
        for name in names:
            note += notes.cosign(body, self.world.witness_keys[name], name, datetime.now(UTC))
        return note

    def honest_checkpoint(self, log: Log) -> bytes:
        return self.cosigned(self.note(len(log.entries), log.root()), *self.world.witness_keys)

    def prove(self, index: int, known: int | None) -> tuple[str, list[str]]:
        size = len(self.log.entries)
        path = self.log.inclusion(index, size)
        proof = self.proof(Proof(self.log.entries[index], index, path, self.checkpoint(self.log)))
        text = receipts.render(proof.entry, proof.index, proof.path, proof.note).decode("utf-8", "surrogateescape")
        hashes = self.log.consistency(known, size) if known is not None and known < size else []
        return self.receipt(text), [
            value if isinstance(value, str) else base64.b64encode(value).decode() for value in self.consistency(hashes)
        ]

    # The answers, by route.

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], Any]:
        self.seen.append(f"{method} {path}")
        where = urlsplit(path).path
        asked = json.loads(body) if body else {}
        if "/tags/" in where:
            return self._sent("tag", 200, self.tag(self._tag(where.rsplit("/", 1)[1])))
        if where.startswith("/v1/repositories/") and where.endswith("/grants"):
            repository = where.removeprefix("/v1/repositories/").removesuffix("/grants")
            return self._sent("grant", 201, self._grant(repository, asked))
        if where.endswith("/read-requests"):
            blobs = [
                {"blake3": blob, "method": "GET", "url": f"{where.rsplit('/', 1)[0]}/blobs/{blob}", "headers": {},
                 "expires_in_seconds": 60}
                for blob in asked["blobs"]
            ]  # fmt: skip
            return self._sent("requests", 200, self.requests({"requests": blobs}))
        if "/blobs/" in where:
            return self._blob(where.rsplit("/", 1)[1], headers)
        if where.endswith("/receipts"):
            return self._sent("recorded", 201, self.recorded(self._received(where.split("/")[3], asked)))
        return 404, {}, b""

    def _sent(self, point: str, status: int, answer: Any) -> tuple[int, dict[str, str], Any]:
        body = json.dumps(answer).encode()
        return self.http.get(point, same_http)(status, {"Content-Type": "application/json"}, body)

    def _tag(self, tag: str) -> dict[str, Any]:
        return {
            "tag": tag, "artifact": str(self.serving.manifest.digest), "version": self.tag_version,
            "moved_at": datetime.now(UTC).isoformat(), "moved_by": "person:al",
        }  # fmt: skip

    def _grant(self, repository: str, asked: dict[str, Any]) -> dict[str, Any]:
        artifacts = vars(self.world).values()
        found = next(
            (a for a in artifacts if isinstance(a, Artifact) and str(a.manifest.digest) == asked["artifact"]),
            self.serving,
        )
        grant_id = str(uuid.uuid4())
        entry = self.entry(
            "artifact.granted", repository=repository, artifact=asked["artifact"], tag=asked["tag"], host=asked["host"],
            verified_host={"name": HOST, "class": "server", "zone": "z"}, purpose=asked["purpose"],
            detail={"grant": grant_id},
        )  # fmt: skip
        index = self.log.append(self.members(entry))
        receipt, consistency = self.prove(index, asked.get("known_size"))
        self.grants[grant_id] = asked
        return self.grant(
            {
                "id": grant_id, "repository": repository, "artifact": asked["artifact"],
                "manifest": found.manifest.raw.decode(), "bundles": [found.bundle.decode()], "event": index,
                "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(), "receipt": receipt,
                "consistency": consistency,
            }
        )  # fmt: skip

    def _received(self, grant_id: str, asked: dict[str, Any]) -> dict[str, Any]:
        granted = self.grants[grant_id]
        # The lies about a receipt were told with the grant; this is another one.
        self.members = self.proof = self.receipt = self.consistency = same
        entry = self.entry(
            "artifact.received", artifact=granted["artifact"], host=granted["host"], purpose=granted["purpose"],
            detail={"grant": grant_id, "transferred_bytes": asked["transferred_bytes"]},
        )  # fmt: skip
        index = self.log.append(entry)
        receipt, consistency = self.prove(index, asked.get("known_size"))
        return {"event": index, "receipt": receipt, "consistency": consistency}

    def _blob(self, name: str, headers: Any) -> tuple[int, dict[str, str], Any]:
        data = self.serving.blobs[name]
        first, last = (int(part) for part in headers["Range"].removeprefix("bytes=").split("-"))
        sent = {"Content-Type": "application/octet-stream", "Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return self.http.get("blob", same_http)(206, sent, data[first : last + 1])

    def copy_entry(self, **changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """A hook for `members`: an entry that says something else."""
        return lambda entry: {**deepcopy(entry), **changes}

    def changed_proof(self, **changes: Any) -> Callable[[Proof], Proof]:
        """A hook for `proof`: functions of the proof, by part."""
        return lambda proof: replace(proof, **{name: change(proof) for name, change in changes.items()})


class Server(ThreadingHTTPServer):
    """HTTP around a simulator."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, registry: LyingRegistry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, answer = self.server.registry.answer(self.command, self.path, self.headers, body)  # type: ignore[attr-defined]
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if answer is NEVER:
            self.end_headers()
            for _ in range(20_000):
                self.wfile.write(b" " * 65536)
                time.sleep(0.0005)
            return
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = headers.get("Connection") == "close"

    do_GET = do_POST = handle_any  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass
