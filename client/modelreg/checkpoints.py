"""Checkpoints: the signed head of the custody log (C2SP tlog-checkpoint), and what this machine has seen of it.

<origin>
<size, decimal>
<root hash, base64>
"""

import base64
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from modelreg import notes
from modelreg.errors import LogNotIntact, LogUnwitnessed
from modelreg.merkle import EMPTY_ROOT, MAX_SIZE
from modelreg.trust import LogTrust

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """Origin, size and root of a log: claimed, until `verify` has returned it. `note` is the whole signed note."""

    origin: str
    size: int
    root: bytes
    note: bytes
    witnessed_at: tuple[datetime, ...] = ()


def sign(origin: str, size: int, root: bytes, key: "Ed25519PrivateKey") -> bytes:
    """The signed note of a head; the key's name is the origin."""
    return notes.sign(body(origin, size, root), key, origin)


def body(origin: str, size: int, root: bytes) -> bytes:
    """The text that is signed."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def parse(untrusted_note: bytes) -> Checkpoint:
    """Read a checkpoint without believing it. Extension lines are refused: ours have none, and nobody audits them.

    Raises:
        LogNotIntact: it is none.
    """
    note = notes.parse(untrusted_note)
    lines = note.text.decode().split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise LogNotIntact("a checkpoint has three lines: origin, size, root")
    if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > MAX_SIZE:
        raise LogNotIntact("the checkpoint's size is no number of entries")
    root = notes.decode_hashes([lines[2]], 1)[0]
    if note.text != body(lines[0], int(lines[1]), root):
        raise LogNotIntact("the checkpoint is not written in its one form")
    if lines[1] == "0" and root != EMPTY_ROOT:
        raise LogNotIntact("a checkpoint of an empty log with entries")
    return Checkpoint(lines[0], int(lines[1]), root, untrusted_note)


def verify(untrusted_note: bytes, trusted: LogTrust) -> Checkpoint:
    """Read a checkpoint and believe it: signed by the pinned log, and by as many witnesses as the policy demands.

    Raises:
        LogNotIntact: malformed, another log, no pinned key, a signature that does not hold.
        LogUnwitnessed: fewer distinct witness keys than demanded.
    """
    checkpoint = parse(untrusted_note)
    if checkpoint.origin != trusted.origin:
        raise LogNotIntact(
            f"a checkpoint of the log {checkpoint.origin[:200]}, but the trust policy pins {trusted.origin}"
        )
    note = notes.parse(untrusted_note)
    if not notes.verified_by(note, trusted.keys):
        raise LogNotIntact(f"the checkpoint is not signed with a key that the trust policy pins for {trusted.origin}")
    witnessed = notes.verified_by(note, trusted.witnesses)
    # One key under two names is one witness.
    if (count := len({key.raw for key, _ in witnessed})) < trusted.required_witnesses:
        raise LogUnwitnessed(
            f"{count} of the {trusted.required_witnesses} witnesses that the trust policy demands vouch for the log of "
            f"{checkpoint.size} entries"
        )
    times = tuple(at for _, at in witnessed if at is not None)
    return Checkpoint(checkpoint.origin, checkpoint.size, checkpoint.root, untrusted_note, times)
