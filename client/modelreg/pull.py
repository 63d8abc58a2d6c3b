"""pull: resolve once, get a grant, verify its signature and its receipt, then fetch and verify every byte."""

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from modelreg import grants, reports, transfer, trees, wire
from modelreg.api import Api
from modelreg.cache import Cache, copy_durably, explained
from modelreg.digests import Digest
from modelreg.durable import make_folder, replace_file, sync_folder
from modelreg.errors import Conflict, ModelregError
from modelreg.hashing import Progress, check_files
from modelreg.outbox import Outbox, Queued
from modelreg.permits import Permit
from modelreg.receipts import VerifiedEntry
from modelreg.references import Reference
from modelreg.trust import TrustPolicy
from modelreg.verification import VerifiedManifest

Meter = Callable[[str, int], Progress]


@dataclass(frozen=True)
class Pulled:
    """A verified artifact in the local store. `folder` is read-only and complete.

    `entry` is the grant in the custody log, verified; None where the trust policy pins no log, and the receipt is only kept.
    """

    verified: VerifiedManifest
    folder: Path
    grant: wire.Grant
    transferred_bytes: int
    entry: VerifiedEntry | None = None
    permit: Permit | None = None


def pull(
    api: Api,
    cache: Cache,
    policy: TrustPolicy,
    reference: Reference,
    *,
    purpose: Literal["pull", "launch"],
    host: str,
    now: datetime,
    connections_at_once: int,
    meter: Meter,
    check_reused: bool = True,
    state_dir: Path | None = None,
    outbox: Outbox | None = None,
    environment: str | None = None,
) -> Pulled:
    """Bring an artifact into the local store, verified, and report that it arrived.

    Args:
        state_dir: where this machine remembers the custody log; needed where the policy pins one.
        outbox: where to leave the report that it arrived if the registry stops answering; None is a failure then.
        environment: where it shall serve: it must be promoted there, and the permit is kept beside the receipt.
        check_reused: measure bytes that were in the store already; False only if the caller calls `cache.check` next.

    Raises:
        Untrusted: signature, signer, trust data, receipt or bytes; nothing wrong gets a final name.
        Refused, NotFound: the registry's answer.
    """
    granted = grants.request(
        api, policy, reference, purpose=purpose, host=host, state_dir=state_dir, now=now, environment=environment
    )
    grant, verified = granted.grant, granted.verified
    reused = any(cache.has_blob(entry) for entry in verified.manifest.files)
    transferred = transfer.download(
        api,
        grant,
        verified,
        cache,
        connections_at_once=connections_at_once,
        progress=meter("downloading", sum(e.size for e in verified.manifest.files if not cache.has_blob(e))),
    )
    folder = cache.complete(verified)
    if reused and check_reused:
        cache.check(verified, meter("verifying", verified.manifest.total_bytes))
    cache.keep_receipt(verified.manifest.digest, grant.receipt.encode())
    if granted.permit is not None and grant.permit is not None:
        cache.keep_permit(verified.manifest.digest, granted.permit.environment, grant.permit.encode())
    report = {"transferred_bytes": transferred}
    told = Queued("received", grant.id, reference.repository, granted.asked.artifact, host, purpose, report)
    reports.send_or_queue(api, policy, told, state_dir=state_dir, outbox=outbox)
    return Pulled(verified, folder, grant, transferred, granted.entry, granted.permit)


def resolve(api: Api, reference: Reference) -> Digest:
    """The artifact a reference names: its digest, else what its tag points at right now."""
    found = grants.resolve(api, reference)
    if found is not None:
        return Digest.parse(found.artifact)
    assert reference.digest is not None
    return reference.digest


def export(pulled: Pulled, output: Path, progress: Progress) -> None:
    """Copy the artifact to a folder of the user's, with its signature as `model.sig`; whole or not at all.

    Raises:
        Conflict: the folder is there and is something else.
        DigestMismatch: the copy is not what was verified.
    """
    manifest = pulled.verified.manifest
    left_out = frozenset({trees.SIGNATURE_FILE})
    if output.exists():
        try:
            check_files(output, manifest.files, chunk_bytes=manifest.chunk_bytes, left_out=left_out)
        except ModelregError as error:
            raise Conflict(
                f"{output} exists and is not this artifact ({error.detail}); remove it or choose another --output",
                path=str(output),
            ) from None
        replace_file(output / trees.SIGNATURE_FILE, pulled.verified.raw_bundle)
        return
    # A name of its own: two exports at once do not share a half-made folder.
    staging = output.with_name(f".{output.name}.{secrets.token_hex(6)}.incoming")
    with explained(output):
        try:
            folders = {staging}
            for entry in manifest.files:
                target = staging / entry.path
                make_folder(target.parent, 0o755)
                folders |= {folder for folder in target.parents if folder.is_relative_to(staging)}
                copy_durably(pulled.folder / entry.path, target)
            replace_file(staging / trees.SIGNATURE_FILE, pulled.verified.raw_bundle)
            # Measured after copying: what the user gets is what was verified, not what the store held a moment ago.
            check_files(staging, manifest.files, chunk_bytes=manifest.chunk_bytes, left_out=left_out, progress=progress)
            for folder in folders:
                sync_folder(folder)
            staging.rename(output)
            sync_folder(output.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
