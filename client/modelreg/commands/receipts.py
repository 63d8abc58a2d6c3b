"""receipt verify, receipt show, report."""

import argparse
import sys
from pathlib import Path
from typing import Any

from modelreg import checkpoints, log_proof, log_state, notes, pinned, receipts
from modelreg.cache import Cache
from modelreg.commands import output_of, settings_of
from modelreg.digests import Digest
from modelreg.errors import Invalid, LogNotIntact, Misconfigured, NotFound, ReceiptMissing
from modelreg.receipts import VerifiedEntry
from modelreg.references import Reference, parse_reference
from modelreg.settings import Settings
from modelreg.trust import LogTrust

SCHEMA = "modelreg/receipt/v1"


def run_verify(options: argparse.Namespace) -> int:
    """`modelreg receipt verify FILE [--log VKEY|policy]`; asks nobody."""
    output = output_of(options)
    trusted = _log_of(options)
    entry = receipts.verify(_read(options.file), trusted)
    output.result(_as_json(entry, verified=True), *_lines(entry, "verified"))
    return 0


def run_show(options: argparse.Namespace) -> int:
    """`modelreg receipt show REF`: the receipt kept beside an artifact of the local store."""
    settings, output = settings_of(options), output_of(options)
    reference = parse_reference(options.reference)
    policy = pinned.policy_of(settings, output.note)
    cache = Cache(settings.cache_dir)
    artifact = reference.digest or _by_tag(cache, reference)
    kept = cache.kept(artifact) if artifact is not None else None
    if artifact is None or kept is None:
        raise NotFound(f"this machine holds no receipt for {reference}; pull it first")
    if kept.raw_receipt is None:
        raise ReceiptMissing(f"{artifact} is in the local store without a receipt; pull it again")
    if options.raw:
        sys.stdout.buffer.write(kept.raw_receipt)
        return 0
    if policy.log is None:
        found = receipts.parse(kept.raw_receipt)
        members = receipts.members_of(found.entry)
        entry = VerifiedEntry(found.index, found.entry, members, checkpoints.parse(found.note))
        output.result(
            _as_json(entry, verified=False),
            *_lines(entry, "recorded, NOT verified: the trust policy pins no custody log ([log])"),
        )
        return 0
    newest = log_state.newest(settings.state_dir, policy.log)
    entry = log_proof.verify_kept(
        kept.raw_receipt, policy.log, repository=reference.repository, artifact=artifact, newest=newest
    )
    output.result(_as_json(entry, verified=True), *_lines(entry, "verified"))
    return 0


def run_report(options: argparse.Namespace) -> int:
    """`modelreg report`: tell the registry what this machine could not tell it before."""
    from modelreg import reports  # noqa: PLC0415  # no HTTP for `receipt`, which works offline
    from modelreg.commands.session import connect  # noqa: PLC0415

    settings, output = settings_of(options), output_of(options)
    machine = reports.machine_of(settings)
    policy = pinned.policy_of(settings, output.note)
    delivered = reports.deliver(connect(settings), policy, machine, wait_seconds=60.0)
    aside = f"; {delivered.rejected} refused and set aside in {machine.outbox.folder / 'rejected'}"
    output.result(
        {
            "sent": delivered.sent,
            "rejected": delivered.rejected,
            "waiting": delivered.left,
            "stopped": delivered.stopped,
        },
        f"{delivered.sent} reports told, {delivered.left} still wait{aside if delivered.rejected else ''}",
        *([f"  {delivered.stopped}"] if delivered.stopped else []),
    )
    return 1 if delivered.left or delivered.rejected else 0


def _log_of(options: argparse.Namespace) -> LogTrust:
    if options.log not in {None, "policy"}:
        key = notes.parse_key(options.log, "--log", notes.ED25519)
        return LogTrust(key.name, (key,))
    settings: Settings = settings_of(options)
    policy = pinned.policy_of(settings, output_of(options).note)
    if policy.log is None:
        raise Misconfigured(
            "the trust policy pins no custody log; give its key with --log (`modelreg-server log key` prints it), or add "
            "a [log] table",
            setting="trust_policy",
        )
    return policy.log


def _by_tag(cache: Cache, reference: Reference) -> Digest | None:
    """The artifact whose newest grant on this machine was asked for by this tag; what is found is verified afterwards."""
    found: list[tuple[Any, Digest]] = []
    for artifact in cache.artifacts():
        kept = cache.kept(artifact)
        if kept is None or kept.raw_receipt is None:
            continue
        try:
            members = receipts.members_of(receipts.parse(kept.raw_receipt).entry)
        except LogNotIntact:
            continue  # a damaged one is shown, and refused, when it is asked for by digest
        if (members.get("repository"), members.get("tag")) == (reference.repository, reference.tag_or_default):
            found.append((str(members["time"]), artifact))
    return max(found, key=lambda item: item[0])[1] if found else None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(receipts.MAX_RECEIPT_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", path=str(path)) from None
    except IsADirectoryError:
        raise Invalid(f"{path} is a folder, not a receipt", field="file") from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}", path=str(path)) from None


def _as_json(entry: VerifiedEntry, *, verified: bool) -> dict[str, Any]:
    checkpoint = entry.checkpoint
    return {
        "schema": SCHEMA,
        "verified": verified,
        "index": entry.index,
        "entry": entry.members,
        "log": checkpoint.origin,
        "log_size": checkpoint.size,
        "log_root": checkpoint.root.hex(),
        "witnessed_at": [at.isoformat() for at in checkpoint.witnessed_at],
    }


def _lines(entry: VerifiedEntry, how: str) -> list[str]:
    members = entry.members
    host = members.get("verified_host")
    machine = f"{members.get('host') or '-'}" + (f" (verified: {host.get('name')})" if isinstance(host, dict) else "")
    name = f"{members.get('repository') or '-'}{':' + members['tag'] if members.get('tag') else ''}"
    return [
        f"{how}: event {entry.index} of {entry.checkpoint.origin} ({entry.checkpoint.size} events)",
        f"  {members['type']} at {members['time']}",
        f"  {name}@{members.get('artifact') or '-'}",
        f"  for {members.get('purpose') or '-'} on {machine}; actor {str(members.get('actor'))[:16]}",
        f"  witnesses: {len(entry.checkpoint.witnessed_at)}",
    ]
