"""Signed notes, as C2SP signed-note and tlog-cosignature have them: a text and lines of signatures. Ed25519 only.

    <text, one or more lines>
    <empty line>
    — <key name> <base64 of 4 bytes of key id and the signature>

Type 0x01 signs the text; type 0x04, a witness's, signs the time as well. Keys that a reader does not know are ignored; a
line of a key that it knows and that does not hold spoils the whole note.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from modelreg.errors import LogNotIntact, Misconfigured

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 32
ED25519 = 0x01
COSIGNATURE = 0x04
_NAME = re.compile(r"[^\s+\x00-\x20\x7f]{1,200}")
_VKEY = re.compile(r"(?P<name>[^\s+]{1,200})\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/]{44})", re.ASCII)
_LINE = re.compile(r"— (?P<name>[^ \n]{1,200}) (?P<value>[A-Za-z0-9+/]{1,8192}={0,2})")


@dataclass(frozen=True)
class VerifierKey:
    """A public key with the name it signs under. `raw` is the 32 bytes of Ed25519; `kind` 0x01 or 0x04."""

    name: str
    kind: int
    raw: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell a reader which key to try."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.raw).digest()[:4]

    def __str__(self) -> str:
        """The text form (vkey)."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.kind]) + self.raw).decode()}"


@dataclass(frozen=True)
class Line:
    """One signature line: nothing of it is verified. `value` is what follows the key id."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True)
class Note:
    """A note taken apart; `text` ends with a newline. Nothing is verified yet."""

    text: bytes
    lines: tuple[Line, ...]


def parse_key(text: str, where: str, kind: int) -> VerifierKey:
    """Read a vkey.

    Raises:
        Misconfigured: malformed, of another type than `kind`, or with an id that is not its own.
    """
    match = _VKEY.fullmatch(text)
    try:
        material = base64.b64decode(match["key"], validate=True) if match else b""
    except binascii.Error:
        material = b""
    if match is None or len(material) != 33:
        raise Misconfigured(f"{where} is no verifier key; write name+id+key, as `modelreg-server log key` prints it")
    if material[0] != kind:
        raise Misconfigured(f"{where} is a key of type {material[0]}, not {kind}: a log's is 1, a witness's is 4")
    key = VerifierKey(match["name"], kind, material[1:])
    if key.key_id.hex() != match["id"]:
        raise Misconfigured(
            f"{where}: the key's id is {key.key_id.hex()}, not {match['id']}; copy the whole line again"
        )
    return key


def key_of(name: str, kind: int, public_key: "Ed25519PublicKey") -> VerifierKey:
    """The verifier key of a public key under a name.

    Raises:
        Misconfigured: the name cannot stand in a note.
    """
    if not _NAME.fullmatch(name):
        raise Misconfigured(f"{ascii(name)[:80]} cannot name a key: no spaces, no plus, at most 200 characters")
    return VerifierKey(name, kind, public_key.public_bytes_raw())


def sign(text: bytes, key: "Ed25519PrivateKey", name: str) -> bytes:
    """The note over a text that ends with a newline, with one signature."""
    return text + b"\n" + line_of(key_of(name, ED25519, key.public_key()), key.sign(text))


def cosign(text: bytes, key: "Ed25519PrivateKey", name: str, at: datetime) -> bytes:
    """A witness's signature line over a text (tlog-cosignature, Ed25519)."""
    seconds = int(at.timestamp())
    value = seconds.to_bytes(8, "big") + key.sign(_witnessed(text, seconds))
    return line_of(key_of(name, COSIGNATURE, key.public_key()), value)


def line_of(key: VerifierKey, value: bytes) -> bytes:
    """A signature line."""
    return f"— {key.name} {base64.b64encode(key.key_id + value).decode()}\n".encode()


def parse(untrusted: bytes) -> Note:
    """Take a note apart.

    Raises:
        LogNotIntact: it is none.
    """
    if len(untrusted) > MAX_NOTE_BYTES:
        raise LogNotIntact(f"a signed note of {len(untrusted)} bytes; the limit is {MAX_NOTE_BYTES}")
    try:
        whole = untrusted.decode("utf-8")
    except UnicodeDecodeError:
        raise LogNotIntact("a signed note that is not UTF-8") from None
    text, separator, signatures = whole.rpartition("\n\n")
    if not separator or not text or not signatures.endswith("\n") or any(c < " " and c != "\n" for c in whole):
        raise LogNotIntact("this is not a signed note: a text, an empty line, signature lines")
    found = signatures[:-1].split("\n")
    if len(found) > MAX_SIGNATURES:
        raise LogNotIntact(f"a signed note with {len(found)} signatures; the limit is {MAX_SIGNATURES}")
    return Note(text.encode() + b"\n", tuple(_line(line) for line in found))


def _line(untrusted: str) -> Line:
    match = _LINE.fullmatch(untrusted)
    try:
        value = base64.b64decode(match["value"], validate=True) if match else b""
    except binascii.Error:
        value = b""
    if match is None or len(value) < 5 or "+" in match["name"]:
        raise LogNotIntact("a signature line of the note is malformed")
    return Line(match["name"], value[:4], value[4:])


def verified_by(note: Note, keys: Iterable[VerifierKey]) -> list[tuple[VerifierKey, datetime | None]]:
    """Which of these keys signed the note; a witness's with its time. A key that signed twice stands there once.

    Raises:
        LogNotIntact: a line names one of these keys and does not hold.
    """
    found: dict[VerifierKey, datetime | None] = {}
    for key in keys:
        for line in note.lines:
            if (line.name, line.key_id) == (key.name, key.key_id):
                found[key] = _verify(note.text, key, line.value)
    return list(found.items())


def _verify(text: bytes, key: VerifierKey, value: bytes) -> datetime | None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # not for `--help`
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        public_key = Ed25519PublicKey.from_public_bytes(key.raw)
        if key.kind == ED25519:
            public_key.verify(value, text)
            return None
        if len(value) != 72:
            raise ValueError("a cosignature of another length")
        seconds = int.from_bytes(value[:8], "big")
        public_key.verify(value[8:], _witnessed(text, seconds))
        return datetime.fromtimestamp(seconds, UTC)
    except (InvalidSignature, ValueError, OverflowError, OSError):
        raise LogNotIntact(f"the signature of {key.name} on this note does not hold") from None


def _witnessed(text: bytes, seconds: int) -> bytes:
    return b"cosignature/v1\ntime " + str(seconds).encode() + b"\n" + text


def decode_hashes(untrusted: Sequence[str], limit: int) -> list[bytes]:
    """Read base64 lines of 32 bytes each.

    Raises:
        LogNotIntact: another form, or more than `limit`.
    """
    if len(untrusted) > limit:
        raise LogNotIntact(f"a proof of {len(untrusted)} hashes; the limit is {limit}")
    try:
        found = [base64.b64decode(line, validate=True) for line in untrusted]
    except ValueError:
        found = [b""]
    # The last character has bits that no byte needs: only one way to write them.
    if any(
        len(value) != 32 or base64.b64encode(value).decode() != line
        for value, line in zip(found, untrusted, strict=False)
    ):
        raise LogNotIntact("a hash of the proof is malformed")
    return found
