"""Asking witnesses to cosign a checkpoint (C2SP tlog-witness), within a deadline that no witness can stretch.

Which witnesses is a file (`MODELREG_WITNESSES`), a line each, in the form of a tlog-policy:

    witness NAME VKEY URL

A witness that does not answer, or answers nonsense, costs a log line and is left alone for a while; the checkpoint is then
less witnessed, and the clients' trust policies decide whether that is enough.
"""

import base64
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from modelreg import connections, notes
from modelreg.errors import LogNotIntact, Misconfigured
from modelreg.notes import COSIGNATURE, VerifierKey, parse_key

MAX_WITNESSES = 16
MAX_ANSWER_BYTES = 64 * 1024
DEADLINE_SECONDS = 2.0
MAX_BACK_OFF_SECONDS = 60.0
_ROUNDS = 2  # the second with the size that the witness told
_SIZE_TYPE = "text/x.tlog.size"

Proof = Callable[[int], Sequence[bytes]]  # from an older size to the checkpoint's: an RFC 6962 consistency proof

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WitnessAddress:
    """A witness: its key, and the URL that `/add-checkpoint` is put after."""

    key: VerifierKey
    url: str


@dataclass
class _State:
    """What is remembered of a witness: the size it cosigned last, until when it is left alone, what it is asked now."""

    size: int = 0
    failures: int = 0
    quiet_until: float = 0.0
    asked: "Future[_Told] | None" = None

    def can_be_asked(self) -> bool:
        """Not while it is left alone, nor while it has not let go of the last request."""
        return self.quiet_until <= time.monotonic() and (self.asked is None or self.asked.done())


@dataclass(frozen=True)
class _Told:
    """What a witness answered: its cosignature line, or the size it has."""

    line: bytes | None = None
    size: int | None = None


class Witnesses:
    """Witnesses and the connections to them; one for a process. Thread-safe; calls take turns."""

    def __init__(
        self,
        addresses: Sequence[WitnessAddress],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        pool: urllib3.PoolManager | None = None,
    ) -> None:
        self._states = {address: _State() for address in addresses}
        self._deadline_seconds = deadline_seconds
        self._pool = pool or connections.make_pool(None, 2)
        self._turn = threading.Lock()

    def cosign(self, note: bytes, size: int, proof: Proof) -> bytes:
        """The checkpoint with the cosignatures that came within the deadline, after those it has; never fails.

        Args:
            note: our own newest checkpoint.
            size: its size.
            proof: called in this thread only, before its result is sent; what it raises is raised.

        A witness that has seen a newer checkpoint of this log cannot cosign this one: workers take turns (`group_commit`).
        """
        ends = time.monotonic() + self._deadline_seconds
        if not self._states or not self._turn.acquire(timeout=self._deadline_seconds):
            return note
        try:
            lines: list[bytes] = []
            asked = [address for address, state in self._states.items() if state.can_be_asked()]
            for _ in range(_ROUNDS):
                asked = self._round(note, size, proof, asked, ends, lines)
            return note + b"".join(lines)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.clear()

    def _round(
        self,
        note: bytes,
        size: int,
        proof: Proof,
        asked: Sequence[WitnessAddress],
        ends: float,
        lines: list[bytes],
    ) -> list[WitnessAddress]:
        """Ask these witnesses at once; returns those that told another size and can be asked again."""
        jobs: dict[Future[_Told], WitnessAddress] = {}
        proofs: dict[int, Sequence[bytes]] = {}
        for address in asked:
            old = min(self._states[address].size, size)
            if old not in proofs:
                proofs[old] = proof(old) if 0 < old < size else ()
            body = _request(old, proofs[old], note)
            jobs[self._start(address, body, note, ends)] = address
        done, late = wait(jobs, timeout=max(0.0, ends - time.monotonic()))
        for job in late:
            self._failed(jobs[job], "it did not answer in time")
        again = []
        for job in done:
            address, state = jobs[job], self._states[jobs[job]]
            error = job.exception()
            if error is not None:
                self._failed(address, getattr(error, "detail", type(error).__name__))
                continue
            told = job.result()
            state.failures = 0
            if told.line is not None:
                lines.append(told.line)
                state.size = size
            elif told.size is not None:
                if told.size <= size and told.size != state.size:  # else it vouches for a newer one, which is no fault
                    again.append(address)
                state.size = told.size
        return again

    def _start(self, address: WitnessAddress, body: bytes, note: bytes, ends: float) -> Future[_Told]:
        """Ask on a thread of its own, which nobody waits for at the end: a witness can hold it as long as it drips."""
        job: Future[_Told] = Future()

        def run() -> None:
            try:
                job.set_result(self._ask(address, body, note, ends))
            except Exception as error:  # noqa: BLE001  # whoever waits for the job is told
                job.set_exception(error)

        threading.Thread(target=run, name="witness", daemon=True).start()
        self._states[address].asked = job
        return job

    def _ask(self, address: WitnessAddress, body: bytes, note: bytes, ends: float) -> _Told:
        left = ends - time.monotonic()
        if left <= 0:
            raise connections.Transient("there was no time left to ask it")
        try:
            response = self._pool.request(
                "POST",
                f"{address.url}/add-checkpoint",
                body=body,
                headers={"Content-Type": "text/plain", "User-Agent": connections.USER_AGENT},
                timeout=urllib3.Timeout(total=left),
                preload_content=False,
                redirect=False,
                decode_content=False,
            )
        except (HTTPError, ValueError) as error:
            raise connections.Transient(f"no answer ({type(error).__name__})") from None
        try:
            with connections.within(response, max(0.01, ends - time.monotonic())):
                answer = response.read(MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            response.close()
            raise connections.Transient(f"it broke off ({type(error).__name__})") from None
        if len(answer) > MAX_ANSWER_BYTES:
            response.close()
            raise LogNotIntact(f"it answered with more than {MAX_ANSWER_BYTES} bytes")
        response.release_conn()
        if response.status == 409 and response.headers.get("Content-Type") == _SIZE_TYPE:
            return _Told(size=_size(answer))
        if response.status != 200:
            raise LogNotIntact(f"it answered {response.status}: {answer[:200]!a}")
        return _Told(line=_cosignature(answer, note, address.key))

    def _failed(self, address: WitnessAddress, why: str) -> None:
        state = self._states[address]
        state.failures += 1
        pause = min(MAX_BACK_OFF_SECONDS, 2.0 ** min(state.failures, 10) / 2)
        state.quiet_until = time.monotonic() + pause
        _log.warning("witness %s is not asked for %.0f s: %s", address.key.name, pause, why)


def _request(old: int, proof: Sequence[bytes], note: bytes) -> bytes:
    lines = [f"old {old}", *[base64.b64encode(value).decode() for value in proof]]
    return "\n".join(lines).encode() + b"\n\n" + note


def _size(untrusted: bytes) -> int:
    text = untrusted.decode("ascii", "replace").removesuffix("\n")
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise LogNotIntact("it answered 409 without a size")
    return int(text)


def _cosignature(untrusted: bytes, note: bytes, key: VerifierKey) -> bytes:
    """The line of this witness's key, if it holds for this checkpoint.

    Raises:
        LogNotIntact: there is none, or it does not hold: our own note must not be spoiled with it.
    """
    answered = notes.parse(note.rpartition(b"\n\n")[0] + b"\n\n" + untrusted)
    if not notes.verified_by(answered, [key]):
        raise LogNotIntact("its answer holds no cosignature by the key that is pinned for it")
    value = next(line.value for line in answered.lines if (line.name, line.key_id) == (key.name, key.key_id))
    if int.from_bytes(value[:8], "big") == 0:
        raise LogNotIntact("its cosignature says no time")
    return notes.line_of(key, value)


def open_witnesses(path: Path | None) -> Witnesses | None:
    """The witnesses of a file, or None where no file is named.

    Raises:
        Misconfigured: as `read_addresses`.
    """
    return None if path is None else Witnesses(read_addresses(path))


def read_addresses(path: Path) -> list[WitnessAddress]:
    """Read the file of witnesses.

    Raises:
        Misconfigured: a line of another form, a key or URL that is none, a key twice, too many.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise Misconfigured(f"the witnesses cannot be read: {error}", setting="MODELREG_WITNESSES") from None
    found: list[WitnessAddress] = []
    for number, line in enumerate(text.splitlines(), 1):
        words, where = line.split(), f"{path}, line {number}"
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 4 or words[0] != "witness":
            raise Misconfigured(f"{where}: write `witness NAME VKEY URL`", setting="MODELREG_WITNESSES")
        parts = urlsplit(words[3])
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise Misconfigured(f"{where}: the last word is no http or https URL", setting="MODELREG_WITNESSES")
        found.append(WitnessAddress(parse_key(words[2], where, COSIGNATURE), words[3].rstrip("/")))
    if len({address.key.raw for address in found}) < len(found):
        raise Misconfigured(f"{path} names a witness key twice", setting="MODELREG_WITNESSES")
    if len(found) > MAX_WITNESSES:
        raise Misconfigured(
            f"{path} names {len(found)} witnesses; the limit is {MAX_WITNESSES}", setting="MODELREG_WITNESSES"
        )
    return found
