"""Which signatures of an artifact are kept: one a signer, the best one, and no more than an answer has room for."""

from collections.abc import Sequence

from sqlmodel import Session, col, select

from modelreg import verification
from modelreg.errors import Conflict, ModelregError
from modelreg.trust import SigstoreAuthority, TrustPolicy
from modelreg_server.tables import Signature

MAX_SIGNATURES = 16  # of one publication: each goes into every grant


def keep(session: Session, signature: Signature, verified: verification.VerifiedManifest, policy: TrustPolicy) -> bool:
    """Keep one bundle a signer; returns whether this one is kept.

    One that does not hold any more gives way, and one without a trusted time to one that has it. Judged by the policy of
    now: certificates end while their key stays, and time-stamping authorities get revoked.

    Raises:
        Conflict: as many signers as an answer has room for.
    """
    kept = _signatures(session, signature.publication_id)
    present = _of_the_same_signer(kept, signature, policy)
    if present is None and len(kept) >= MAX_SIGNATURES:
        present = next((row for row in kept if _held(row, verified, policy) is None), None)
        if present is None:
            raise Conflict(f"{MAX_SIGNATURES} good signatures are on this artifact already; it takes no more")
    if present is None:
        session.add(signature)
        return True
    held = _held(present, verified, policy)
    if held is not None and (held.signer.signed_at is not None or signature.signed_at is None):
        return False
    present.bundle, present.added_at, present.added_by = signature.bundle, signature.added_at, signature.added_by
    present.authority, present.identity, present.key_id = signature.authority, signature.identity, signature.key_id
    present.signed_at = signature.signed_at
    return True


def _held(
    row: Signature, verified: verification.VerifiedManifest, policy: TrustPolicy
) -> verification.VerifiedStatement | None:
    """What a bundle that was kept is still good for."""
    try:
        return verification.verify_statement(
            row.bundle, policy=policy, repository=verified.repository, now=verified.verified_at
        )
    except ModelregError:
        return None


def _of_the_same_signer(kept: Sequence[Signature], signature: Signature, policy: TrustPolicy) -> Signature | None:
    """The row of the same key; a Sigstore's keys live for one signature, so there it is the row of the same identity."""
    keyless = isinstance(policy.authorities[signature.authority], SigstoreAuthority)
    for row in kept:
        named_alike = (row.authority, row.identity) == (signature.authority, signature.identity)
        if row.key_id == signature.key_id or (keyless and named_alike):
            return row
    return None


def _signatures(session: Session, publication_id: int) -> Sequence[Signature]:
    query = select(Signature).where(Signature.publication_id == publication_id).order_by(col(Signature.id))
    return session.exec(query).all()
