"""Step 8 of `verification`: what the custody log proves of a grant or a report. Pure: bytes, trust, memory and `now` come in.

A receipt is believed when all of these hold; each has an error of its own:

    a. the policy pins a log, and there is a receipt (`ReceiptMissing`)
    b. its checkpoint is signed by the pinned log and by as many witnesses as demanded (`LogNotIntact`, `LogUnwitnessed`)
    c. its entry is in the tree of that checkpoint (`LogNotIntact`)
    d. that tree continues the newest one this machine has seen (`LogRolledBack`, `LogForked`)
    e. the entry says what was asked for, here and now: no other artifact, host or purpose, no replay (`ReceiptMismatch`)

What is kept beside an artifact is held against a, b, c and the entry's artifact later on: `verify_kept`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from modelreg import merkle, notes, receipts
from modelreg.checkpoints import Checkpoint
from modelreg.digests import Digest
from modelreg.errors import LogForked, ReceiptMismatch, ReceiptMissing
from modelreg.receipts import VerifiedEntry
from modelreg.trust import LogTrust

MAX_AGE = timedelta(minutes=5)  # of an entry that answers a request of ours, and how far clocks may differ
GRANTED = "artifact.granted"


@dataclass(frozen=True)
class Expected:
    """What an entry must say: what this client asked for. `host` is what it calls itself, `verified_host` whose key signed.

    Without a host key nothing is expected of `verified_host`: a proxy may know this machine by its certificate.
    """

    type: str
    repository: str
    artifact: Digest
    host: str
    purpose: str
    tag: str | None = None
    verified_host: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def verify(
    untrusted_receipt: str | None,
    untrusted_consistency: Sequence[str],
    trusted: LogTrust,
    expected: Expected,
    *,
    index: int,
    newest: Checkpoint | None,
    now: datetime | None,
) -> VerifiedEntry:
    """Verify the receipt that came with an answer.

    Args:
        untrusted_receipt: tlog-proof text; None or empty where the registry sent none.
        untrusted_consistency: base64 hashes from `newest` to the receipt's checkpoint.
        trusted: the pinned log.
        expected: what was asked.
        index: the event that the answer names.
        newest: the newest checkpoint of this log that this machine has seen when it asked, or None.
        now: the instant of the answer; None where `expected` holds what no older entry can say.

    Raises:
        ReceiptMissing, LogNotIntact, LogUnwitnessed, LogRolledBack, LogForked, ReceiptMismatch: as above.
    """
    raw = untrusted_receipt.encode("utf-8", "surrogatepass") if untrusted_receipt is not None else None
    found = _proven(raw, trusted, expected.repository)  # a. b. c.
    _require_continues(found.checkpoint, newest, untrusted_consistency)  # d.
    # e. Everything that was asked, and the answer's own words about itself.
    if found.index != index:
        raise ReceiptMismatch(
            f"the receipt is for entry {found.index}, the answer names {index}",
            member="index",
            expected=index,
            found=found.index,
        )
    if now is not None and newest is not None and found.index < newest.size:
        # Whatever the registry records now comes after all that this machine has seen of the log.
        raise ReceiptMismatch(
            f"the receipt's entry {found.index} was there before this request: the log had {newest.size} entries; the "
            "registry answers with an earlier grant",
            member="index",
            expected=newest.size,
            found=found.index,
        )
    found.require(
        type=expected.type,
        repository=expected.repository,
        artifact=str(expected.artifact),
        tag=expected.tag,
        host=expected.host,
        purpose=expected.purpose,
    )
    _require_detail(found, expected.detail)
    _require_host(found, expected.verified_host)
    if now is not None and abs(now - found.time) > MAX_AGE:
        raise ReceiptMismatch(
            f"the receipt's entry {found.index} is of {found.time:%Y-%m-%d %H:%M:%S}Z, and it is {now:%Y-%m-%d %H:%M:%S}Z: "
            "an old answer, or one of two clocks is wrong; check this machine's first",
            member="time",
            expected=now.isoformat(),
            found=found.time.isoformat(),
        )
    return found


def verify_kept(
    untrusted_receipt: bytes | None,
    trusted: LogTrust,
    *,
    repository: str,
    artifact: Digest,
    newest: Checkpoint | None = None,
) -> VerifiedEntry:
    """Verify the receipt kept beside an artifact, with no registry: the log recorded that it was granted.

    How old it is does not matter here. That its tree continues others was checked when it came; a later checkpoint of the
    same size must be the same one.

    Raises:
        ReceiptMissing, LogNotIntact, LogUnwitnessed, LogForked, ReceiptMismatch: as above.
    """
    found = _proven(untrusted_receipt, trusted, repository)
    if newest is not None and newest.size == found.checkpoint.size and newest.root != found.checkpoint.root:
        raise LogForked(f"the kept receipt is of another log of {newest.size} entries than this machine has seen")
    found.require(type=GRANTED, repository=repository, artifact=str(artifact))
    return found


def _proven(untrusted: bytes | None, trusted: LogTrust, repository: str) -> VerifiedEntry:
    if not untrusted:
        raise ReceiptMissing(
            f"the trust policy pins the custody log {trusted.origin}, and there is no receipt for {repository}; pull again, "
            "and if the registry sends none tell its operators"
        )
    return receipts.verify(untrusted, trusted)


def _require_continues(checkpoint: Checkpoint, newest: Checkpoint | None, untrusted_proof: Sequence[str]) -> None:
    proof = notes.decode_hashes(untrusted_proof, merkle.MAX_PROOF_HASHES)
    old, old_root = (newest.size, newest.root) if newest is not None else (0, merkle.EMPTY_ROOT)
    merkle.verify_consistency(old, old_root, checkpoint.size, checkpoint.root, proof)


def _require_detail(found: VerifiedEntry, expected: Mapping[str, Any]) -> None:
    detail = found.members.get("detail")
    said = detail if isinstance(detail, dict) else {}
    for name, value in expected.items():
        if said.get(name) != value:
            raise ReceiptMismatch(
                f"the receipt's entry {found.index} says {name} = {ascii(said.get(name))[:200]}, not {ascii(value)[:200]}",
                member=f"detail.{name}",
                expected=value,
                found=str(said.get(name))[:200],
            )


def _require_host(found: VerifiedEntry, expected: str | None) -> None:
    host = found.members.get("verified_host")
    name = host.get("name") if isinstance(host, dict) else None
    if expected is not None and name != expected:
        raise ReceiptMismatch(
            f"this machine signed its request as the host {expected}, and the receipt's entry {found.index} says "
            f"{ascii(name)[:100]}",
            member="verified_host",
            expected=expected,
            found=str(name)[:200],
        )
