"""Receipts: an entry of the custody log with the proof that it is there (C2SP tlog-proof text, docs/spec/custody-log.md).

    c2sp.org/tlog-proof@v1
    extra <base64 of the entry, canonical JSON>
    index 73894
    <base64 of a hash of the audit path, from the sibling up>
    …
    <empty line>
    <the checkpoint, a signed note>

It verifies offline with the log's public key and nothing else. The `extra` line carries what is hashed, so nothing of it is
believed before the path leads to a checkpoint that is.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelreg import checkpoints, merkle, notes
from modelreg.canonical import canonical_json, strict_json
from modelreg.checkpoints import Checkpoint
from modelreg.errors import LogNotIntact, ReceiptMismatch
from modelreg.trust import LogTrust

MAX_RECEIPT_BYTES = 96 * 1024
MAX_ENTRY_BYTES = 8 * 1024
_HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True)
class Receipt:
    """A receipt taken apart: nothing of it is verified."""

    entry: bytes
    index: int
    path: tuple[bytes, ...]
    note: bytes


@dataclass(frozen=True)
class VerifiedEntry:
    """An entry that this process has found in the pinned log. `members` is its JSON object."""

    index: int
    entry: bytes
    members: dict[str, Any]
    checkpoint: Checkpoint

    @property
    def time(self) -> datetime:
        """When the log says it was appended."""
        return datetime.fromisoformat(self.members["time"])

    def require(self, **expected: Any) -> None:
        """Refuse an entry that says something else.

        Raises:
            ReceiptMismatch: which member, and what it says.
        """
        for name, value in expected.items():
            found = self.members.get(name)
            if found != value:
                raise ReceiptMismatch(
                    f"the receipt's entry {self.index} says {name} = {ascii(found)[:200]}, not {ascii(value)[:200]}",
                    member=name,
                    expected=value,
                    found=found if isinstance(found, str | int | None) else str(found)[:200],
                )


def render(entry: bytes, index: int, path: Sequence[bytes], note: bytes) -> bytes:
    """The text of a receipt."""
    lines = [_HEADER, f"extra {base64.b64encode(entry).decode()}", f"index {index}"]
    lines += [base64.b64encode(value).decode() for value in path]
    return "\n".join(lines).encode() + b"\n\n" + note


def parse(untrusted: bytes) -> Receipt:
    """Take a receipt apart.

    Raises:
        LogNotIntact: it is none.
    """
    if len(untrusted) > MAX_RECEIPT_BYTES:
        raise LogNotIntact(f"a receipt of {len(untrusted)} bytes; the limit is {MAX_RECEIPT_BYTES}")
    head, separator, note = untrusted.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        lines = []
    if not separator or len(lines) < 3 or lines[0] != _HEADER or not lines[1].startswith("extra "):
        raise LogNotIntact("this is no receipt: a tlog-proof with its entry in the `extra` line")
    index = _INDEX.fullmatch(lines[2])
    try:
        entry = base64.b64decode(lines[1].removeprefix("extra "), validate=True)
    except ValueError:
        entry = b""
    if index is None or int(index[1]) > merkle.MAX_SIZE or not 0 < len(entry) <= MAX_ENTRY_BYTES:
        raise LogNotIntact("the receipt's index or entry is malformed")
    return Receipt(entry, int(index[1]), tuple(notes.decode_hashes(lines[3:], merkle.MAX_PROOF_HASHES)), note)


def verify(untrusted: bytes, trusted: LogTrust) -> VerifiedEntry:
    """Verify a receipt with the log's pinned keys.

    Raises:
        LogNotIntact: it does not show its entry in that log; `LogUnwitnessed` with too few witnesses.
    """
    receipt = parse(untrusted)
    checkpoint = checkpoints.verify(receipt.note, trusted)
    merkle.verify_inclusion(
        merkle.leaf_hash(receipt.entry), receipt.index, checkpoint.size, receipt.path, checkpoint.root
    )
    return VerifiedEntry(receipt.index, receipt.entry, members_of(receipt.entry), checkpoint)


def members_of(entry: bytes) -> dict[str, Any]:
    """The members of an entry that is known to be the log's; one that is no canonical JSON object is refused all the same.

    Raises:
        LogNotIntact: the log holds an entry that no modelreg writes.
    """
    try:
        members = strict_json(entry)
        known = canonical_json(members) == entry and members["v"] in (1, 2) and isinstance(members["type"], str)
        aware = known and datetime.fromisoformat(members["time"]).tzinfo is not None
    except (KeyError, TypeError, ValueError):
        aware = False
    if not aware:
        raise LogNotIntact("the entry is no custody event of a version that this client knows")
    assert isinstance(members, dict)
    return members
