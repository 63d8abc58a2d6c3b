"""Launching without the registry: what this machine was granted before may stand in for an answer, for a while.

All of it must hold: the trust policy pins a log and allows some time without it (`max_offline_seconds`); the artifact is
in the local store with the receipt of a grant to this machine, no older than that; steps 1 to 8 of `verification` hold
now, with trust data that is still fresh. The bytes are the caller's to measure, as always.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from modelreg import log_proof, log_state, permits, verification
from modelreg.cache import Cache, Kept
from modelreg.digests import Digest
from modelreg.errors import LogNotIntact, Unreachable
from modelreg.permits import Permit
from modelreg.receipts import VerifiedEntry
from modelreg.references import Reference
from modelreg.trust import MAX_CLOCK_SKEW, LogTrust, TrustPolicy
from modelreg.verification import VerifiedManifest


@dataclass(frozen=True)
class KeptGrant:
    """What stands in for the registry's answer: a verified manifest and the entry of the grant that brought it here."""

    verified: VerifiedManifest
    entry: VerifiedEntry


def find(
    cache: Cache,
    policy: TrustPolicy,
    reference: Reference,
    *,
    host: str,
    state_dir: Path,
    now: datetime,
    why: Unreachable,
) -> KeptGrant:
    """The artifact that a reference named when this machine last pulled it.

    Args:
        why: the reason to ask; raised again, with what is missing, where nothing may stand in for the registry.

    Raises:
        Unreachable: see `why`.
        Untrusted, Revoked: what is kept does not hold.
    """
    if policy.log is None or not policy.log.max_offline:
        raise why
    found = _newest(cache, policy.log, reference, host, state_dir)
    if found is None:
        raise _without(why, f"this machine holds no receipt for {reference} as {host}, with its files")
    artifact, kept, entry = found
    age = now - entry.time
    if age > policy.log.max_offline or age < -MAX_CLOCK_SKEW:
        raise _without(
            why,
            f"the newest receipt for {reference} on this machine is of {entry.time:%Y-%m-%d %H:%M}Z, and the trust policy "
            f"allows {int(policy.log.max_offline.total_seconds())} s",
        )
    verified = verification.verify(
        kept.raw_bundle, kept.raw_manifest, policy=policy, repository=reference.repository, now=now, artifact=artifact
    )
    return KeptGrant(verified, entry)


def permit(
    cache: Cache,
    policy: TrustPolicy,
    verified: VerifiedManifest,
    environment: str,
    host: str,
    now: datetime,
    why: Unreachable,
    verified_host: str | None = None,
) -> Permit:
    """The kept permit to serve an artifact in an environment: good until it ends, whatever happened since.

    Args:
        verified_host: this machine's name as a host, where it has a key.
        why: the registry was not asked, or did not answer; raised again where nothing was kept.

    Raises:
        PolicyRefused: it has ended.
        Unreachable: there is none.
        SignatureInvalid, SignerNotAllowed: what is kept is not the registry's word about this.
    """
    raw = cache.kept_permit(verified.manifest.digest, environment)
    if policy.log is None or raw is None:
        raise _without(
            why,
            f"this machine holds no permit to serve {verified.repository}@{verified.manifest.digest} in {environment}",
        )
    return permits.verify(
        raw,
        policy.log,
        artifact=verified.manifest.digest,
        repository=verified.repository,
        environment=environment,
        host=host,
        now=now,
        verified_host=verified_host,
    )


def _newest(
    cache: Cache, trusted: LogTrust, reference: Reference, host: str, state_dir: Path
) -> tuple[Digest, Kept, VerifiedEntry] | None:
    """The newest verified receipt that answers the reference, with what is kept of its artifact."""
    seen = log_state.newest(state_dir, trusted)
    best = None
    for artifact in [reference.digest] if reference.digest is not None else cache.artifacts():
        kept = cache.kept(artifact)
        if kept is None or kept.raw_receipt is None or not cache.snapshot_path(artifact).is_dir():
            continue
        try:
            entry = log_proof.verify_kept(
                kept.raw_receipt, trusted, repository=reference.repository, artifact=artifact, newest=seen
            )
        except LogNotIntact:
            if reference.digest is not None:
                raise
            continue  # of another repository, or broken: nothing that could answer a tag
        asked = {"host": host} if reference.digest is not None else {"host": host, "tag": reference.tag_or_default}
        if all(entry.members.get(name) == value for name, value in asked.items()) and (
            best is None or entry.time > best[2].time
        ):
            best = (artifact, kept, entry)
    return best


def _without(why: Unreachable, missing: str) -> Unreachable:
    return Unreachable(f"{why.detail}; and it cannot be done without it: {missing}", **why.facts)
