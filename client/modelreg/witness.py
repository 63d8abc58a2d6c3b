"""A witness: vouches that a log only grows (C2SP tlog-witness and tlog-cosignature, Ed25519).

For each log it is told to watch it remembers the one newest checkpoint that it cosigned, and cosigns another only if that
one continues it. A log that shows two people different histories would need two of these for one size, and gets one. Run it
where the registry's operators have no rights: on their own machine they could be made to forget.

State is a file a log below one folder, replaced durably while a lock on that log is held, so that several processes may
share a folder. **Losing or restoring the folder makes the witness forget**; it would then vouch for another history.
"""

import base64
import fcntl
import hashlib
import os
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import merkle, notes
from modelreg.durable import make_folder, replace_file
from modelreg.errors import LogNotIntact, Misconfigured
from modelreg.merkle import EMPTY_ROOT, MAX_SIZE
from modelreg.notes import VerifierKey

MAX_PROOF_LINES = 63
MAX_TEXT_BYTES = 8 * 1024  # of a checkpoint: what is kept of it must be readable again with the signatures below it
MAX_BODY_BYTES = notes.MAX_NOTE_BYTES + 64 * 64
MAX_CONNECTIONS = 64
CONNECTION_SECONDS = 60.0
SILENCE_SECONDS = 10.0
SIZE_TYPE = "text/x.tlog.size"
_KEY_HEAD = "PRIVATE+KEY+"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_MONITORED = re.compile(r"/([0-9a-f]{64})/checkpoint", re.ASCII)


class Answer(Exception):  # control flow of one request
    """An HTTP answer that is not 200."""

    def __init__(self, status: int, body: str, kind: str = "text/plain; charset=utf-8") -> None:
        super().__init__(body)
        self.status = status
        self.body = body
        self.kind = kind


@dataclass(frozen=True)
class Head:
    """Origin, size and root of a checkpoint, and the note it stands in. Extension lines are another's business."""

    origin: str
    size: int
    root: bytes
    note: notes.Note
    raw: bytes


@dataclass(frozen=True)
class WitnessKey:
    """What a witness signs with, under which name."""

    name: str
    private_key: Ed25519PrivateKey

    @property
    def verifier(self) -> VerifierKey:
        """What others pin."""
        return notes.key_of(self.name, notes.COSIGNATURE, self.private_key.public_key())


def make_key(path: Path, name: str) -> WitnessKey:
    """Make a witness's key in a new file that only its owner may read.

    Raises:
        Misconfigured: the file is there already, or the name cannot stand in a note.
    """
    key = WitnessKey(name, Ed25519PrivateKey.generate())
    verifier = key.verifier
    secret = bytes([notes.COSIGNATURE]) + key.private_key.private_bytes_raw()
    line = f"{_KEY_HEAD}{name}+{verifier.key_id.hex()}+{base64.b64encode(secret).decode()}\n"
    make_folder(path.parent)
    try:
        # The name is taken first, so that a key that exists is never written over.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise Misconfigured(f"{path} exists; a witness keeps its key, choose another file", path=str(path)) from None
    replace_file(path, line.encode(), mode=0o600)
    return key


def read_key(path: Path) -> WitnessKey:
    """Read what `make_key` wrote.

    Raises:
        Misconfigured: unreadable, malformed, or readable by others.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, encoding="utf-8") as file:  # noqa: PTH123  # a descriptor, not a path
            if os.fstat(fd).st_mode & 0o077:
                raise Misconfigured(f"{path} can be read by others; chmod 600 it", path=str(path))
            line = file.read(4096)
    except (OSError, ValueError) as error:
        raise Misconfigured(f"the witness key {path} cannot be read: {error}", path=str(path)) from None
    try:
        name, key_id, text = line.strip().removeprefix(_KEY_HEAD).split("+", 2)
        secret = base64.b64decode(text, validate=True)
        if not line.startswith(_KEY_HEAD) or len(secret) != 33 or secret[0] != notes.COSIGNATURE:
            raise ValueError
        key = WitnessKey(name, Ed25519PrivateKey.from_private_bytes(secret[1:]))
    except ValueError:
        key = None
    if key is None or key.verifier.key_id.hex() != key_id:
        raise Misconfigured(f"{path} is no witness key; `modelreg witness init` makes one", path=str(path))
    return key


class Witness:
    """One key, the logs it watches, and what it has cosigned. Thread-safe, and safe beside other processes."""

    def __init__(
        self, key: WitnessKey, folder: Path, logs: Sequence[VerifierKey], clock: Callable[[], datetime]
    ) -> None:
        if not logs:
            raise Misconfigured("name a log to watch: --log VKEY, as `modelreg-server log key` prints it")
        self._key = key
        self._folder = folder
        self._clock = clock
        self._logs: dict[str, list[VerifierKey]] = defaultdict(list)
        for log in logs:
            self._logs[log.name].append(log)
        make_folder(folder)

    def add_checkpoint(self, untrusted: bytes) -> bytes:
        """Answer an `add-checkpoint` request: the cosignature line, durable before it is returned.

        Raises:
            Answer: the request is refused, with the status the protocol has for it.
        """
        old, proof, head = _request(untrusted)
        keys = self._logs.get(head.origin)
        if keys is None:
            raise Answer(404, "this witness does not watch that log\n")
        try:
            signed = notes.verified_by(head.note, keys)
        except LogNotIntact as error:
            raise Answer(403, f"{error.detail}\n") from None
        if not signed:
            raise Answer(403, "the checkpoint is not signed with a key that this witness knows for its origin\n")
        if old > head.size:
            raise Answer(400, "the old size is larger than the checkpoint's\n")
        with self._locked(head.origin):
            last = self._last(head.origin)
            last_size, last_root = (last.size, last.root) if last else (0, EMPTY_ROOT)
            if old != last_size:
                raise Answer(409, f"{last_size}\n", SIZE_TYPE)
            if head.size == 0 and head.root != EMPTY_ROOT:
                raise Answer(422, "an empty log with entries\n")
            try:
                merkle.verify_consistency(old, last_root, head.size, head.root, proof)
            except LogNotIntact as error:
                raise Answer(422, f"{error.detail}\n") from None
            line = notes.cosign(head.note.text, self._key.private_key, self._key.name, self._clock())
            # What is kept is also what is shown: the lines that were verified, and ours.
            known = {(key.name, key.key_id) for key, _ in signed}
            kept = [item for item in head.note.lines if (item.name, item.key_id) in known]
            shown = b"".join(
                f"— {item.name} {base64.b64encode(item.key_id + item.value).decode()}\n".encode() for item in kept
            )
            replace_file(self._path(head.origin), head.note.text + b"\n" + shown + line)
        return line

    def checkpoint(self, origin_hash: str) -> bytes:
        """The newest cosigned checkpoint of a log, by the SHA-256 of its origin.

        Raises:
            Answer: none was cosigned.
        """
        for origin in self._logs:
            if hashlib.sha256(origin.encode()).hexdigest() == origin_hash and (last := self._last(origin)):
                return last.raw
        raise Answer(404, "no checkpoint of that log was cosigned here\n")

    def _path(self, origin: str) -> Path:
        return self._folder / hashlib.sha256(origin.encode()).hexdigest()

    def _last(self, origin: str) -> Head | None:
        """What was cosigned last. A file that cannot be read is no beginning: it would let a log begin again."""
        try:
            raw = self._path(origin).read_bytes()
        except FileNotFoundError:
            return None
        try:
            head = _head(raw)
        except LogNotIntact as error:
            raise Answer(500, "this witness cannot read what it cosigned last\n") from error
        if head.origin != origin:
            raise Answer(500, "this witness cannot read what it cosigned last\n")
        return head

    @contextmanager
    def _locked(self, origin: str) -> Iterator[None]:
        fd = os.open(self._path(origin).with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _request(untrusted: bytes) -> tuple[int, list[bytes], Head]:
    """Old size, proof, checkpoint.

    Raises:
        Answer: 400.
    """
    head, separator, note = untrusted.partition(b"\n\n")
    try:
        first, *proof = head.decode("ascii").split("\n")
        size = first.removeprefix("old ")
        if not separator or size == first or not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
            raise LogNotIntact("write `old` and a size, the proof's hashes, an empty line and a checkpoint")
        return int(size), notes.decode_hashes(proof, MAX_PROOF_LINES), _head(note)
    except UnicodeDecodeError:
        raise Answer(400, "the lines before the checkpoint are not ASCII\n") from None
    except LogNotIntact as error:
        raise Answer(400, f"{error.detail}\n") from None


def _head(untrusted_note: bytes) -> Head:
    """The three lines of a checkpoint; more may follow, which say nothing here.

    Raises:
        LogNotIntact: it is none.
    """
    note = notes.parse(untrusted_note)
    lines = note.text.decode().removesuffix("\n").split("\n")
    if len(note.text) > MAX_TEXT_BYTES:
        raise LogNotIntact(f"a checkpoint of {len(note.text)} bytes; the limit is {MAX_TEXT_BYTES}")
    if len(lines) < 3 or not all(lines):
        raise LogNotIntact("a checkpoint has three lines, origin, size and root, and no empty one")
    if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > MAX_SIZE:
        raise LogNotIntact("the checkpoint's size is no number of entries")
    root = notes.decode_hashes([lines[2]], 1)[0]
    if base64.b64encode(root).decode() != lines[2]:
        raise LogNotIntact("the checkpoint's root is not written in its one form")
    return Head(lines[0], int(lines[1]), root, note, untrusted_note)


class WitnessServer(ThreadingHTTPServer):
    """The witness over HTTP: `POST /add-checkpoint`, `GET /<SHA-256 of the origin>/checkpoint`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.witness = witness
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread, or close it where there are enough."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The connection's thread; whatever it does, it ends."""
        timer = threading.Timer(CONNECTION_SECONDS, _cut, [request])
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that hangs up is no news."""


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "modelreg-witness"
    sys_version = ""
    timeout = SILENCE_SECONDS
    wbufsize = -1  # head and body in one packet: apart, they are 40 ms apart (seen)
    disable_nagle_algorithm = True
    server: WitnessServer

    def do_POST(self) -> None:
        try:
            if self.path != "/add-checkpoint":
                raise Answer(404, "POST /add-checkpoint\n")
            self._answer(200, self.server.witness.add_checkpoint(self._body()))
        except Answer as answer:
            self._refuse(answer)
        except OSError as error:
            self._refuse(Answer(500, f"this witness cannot keep what it cosigns: {error.strerror}\n"))

    def do_GET(self) -> None:
        try:
            monitored = _MONITORED.fullmatch(self.path)
            if monitored is None:
                raise Answer(404, "GET /<SHA-256 of the origin>/checkpoint\n")
            self._answer(200, self.server.witness.checkpoint(monitored[1]))
        except Answer as answer:
            self._refuse(answer)
        except OSError as error:
            self._refuse(Answer(500, f"this witness cannot read what it cosigned: {error.strerror}\n"))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not _SIZE.fullmatch(length):
            raise Answer(411, "send a Content-Length\n")
        if int(length) > MAX_BODY_BYTES:
            raise Answer(413, f"at most {MAX_BODY_BYTES} bytes\n")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Answer(400, "the request broke off\n")
        return body

    def _refuse(self, answer: Answer) -> None:
        # What is left of the request is not read, so it may not be taken for the next one.
        self.close_connection = self.close_connection or answer.status in {404, 411, 413}
        self._answer(answer.status, answer.body.encode(), answer.kind)

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing: a request is a signed checkpoint or noise."""
