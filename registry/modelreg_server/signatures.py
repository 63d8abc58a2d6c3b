"""Who signed what, across every repository: what a revocation would withdraw."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlmodel import Session, col, select

from modelreg import bundles, timestamps
from modelreg.digests import sha256_of
from modelreg.errors import SignatureInvalid
from modelreg.references import glob_matches
from modelreg.trust import MALFORMED, CertificateAuthority, KeyAuthority, SigstoreAuthority, TrustPolicy, key_id_of
from modelreg.verification import identities_of
from modelreg_server.tables import Publication, Repository, Signature, Tag

MAX_SCANNED = 500  # rows looked at for one page
_BATCH = 20  # rows in memory at once, each with its bundle


@dataclass(frozen=True)
class Signed:
    """A signature with what it signs. `trusted_time` is None too if it comes from the time stamp that was asked for."""

    signature: Signature
    publication: Publication
    repository: str
    tags: list[str]
    trusted_time: datetime | None


def page(
    session: Session,
    *,
    identity: str | None,
    key: str | None,
    artifact: str | None,
    policy: TrustPolicy | None,
    after: int,
    limit: int,
) -> tuple[list[Signed], int | None]:
    """Signatures after a row that match everything that is given, and where to go on; None at the end.

    Args:
        identity: as in a revocation list, so `*` stands for any run of characters but `/`.
        key: sha256 of a key or of a certificate: the signer's, its time stamps', or of an issuer up to the root.
        artifact: digest.
        policy: names the issuers that no bundle carries; without one they are not found.
        after: id of the last row seen.
        limit: at most so many.
    """
    query = (
        select(Signature, Publication, Repository.name)
        .join(Publication, col(Publication.id) == col(Signature.publication_id))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .order_by(col(Signature.id))
    )
    if artifact is not None:
        query = query.where(Publication.artifact_digest == artifact)
    found: list[Signed] = []
    scanned = 0
    while scanned < MAX_SCANNED:
        at_once = min(_BATCH, MAX_SCANNED - scanned)
        rows = session.exec(query.where(col(Signature.id) > after).limit(at_once)).all()
        scanned += len(rows)
        for signature, publication, repository in rows:
            assert signature.id is not None
            after = signature.id
            trusted_time, matches = signature.signed_at, True
            if identity is not None:
                matches = any(glob_matches(identity, name) for name in _names_in(signature))
            if matches and key is not None:
                behind = _behind(signature, policy)
                matches = key in behind.signer or key in behind.time
                trusted_time = None if key in behind.time else trusted_time
            session.expire(signature, ["bundle"])  # up to 64 MiB each, which nobody reads any more
            if matches:
                found.append(Signed(signature, publication, repository, _tags(session, publication), trusted_time))
                if len(found) == limit:
                    return found, after
        if len(rows) < at_once:
            return found, None
    return found, after


@dataclass(frozen=True)
class _Behind:
    """Keys and certificates by each SHA-256 a revocation may name them: the signer's up to a root, the time stamps'."""

    signer: set[str]
    time: set[str]


def _names_in(signature: Signature) -> set[str]:
    """Every name of the signer: a revocation counts those as well by which nobody was allowed."""
    names = {signature.identity}
    with contextlib.suppress(SignatureInvalid, *MALFORMED):
        for der in bundles.parse(signature.bundle).certificates[:1]:
            names |= set(identities_of(x509.load_der_x509_certificate(der)))
    return names


def _behind(signature: Signature, policy: TrustPolicy | None) -> _Behind:
    """What the bundle carries, and what the policy of now pins above it (by issuer's name: rather one too many)."""
    signer: list[x509.Certificate] = []
    time: list[x509.Certificate] = []
    with contextlib.suppress(SignatureInvalid, *MALFORMED):
        bundle = bundles.parse(signature.bundle)
        signer = [x509.load_der_x509_certificate(der) for der in bundle.certificates]
        for stamp in bundle.timestamps:
            with contextlib.suppress(SignatureInvalid):
                time += timestamps.enclosed(stamp)
        authority = policy.authorities.get(signature.authority) if policy is not None else None
        if policy is not None and isinstance(authority, KeyAuthority | CertificateAuthority):
            time = _with_issuers(
                time, [root for name in authority.timestamps for root in policy.time_authorities[name].roots]
            )
        if isinstance(authority, CertificateAuthority):
            signer = _with_issuers(signer, authority.roots)
        if isinstance(authority, SigstoreAuthority):
            root = authority.trusted_root
            signer = _with_issuers(signer, [one for pinned in root.authorities for one in pinned.certificates])
            # Its stamps may enclose no certificate.
            time += [one for pinned in root.timestamp_authorities for one in pinned.certificates]
    return _Behind({signature.key_id, *_ids_of(signer)}, _ids_of(time))


def _with_issuers(chain: Sequence[x509.Certificate], pinned: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    found = list(chain)
    for certificate in found:  # grows while it is read
        found += [issuer for issuer in pinned if issuer.subject == certificate.issuer and issuer not in found]
    return found


def _ids_of(certificates: Sequence[x509.Certificate]) -> set[str]:
    found = {str(key_id_of(certificate.public_key())) for certificate in certificates}
    return found | {str(sha256_of(one.public_bytes(serialization.Encoding.DER))) for one in certificates}


def _tags(session: Session, publication: Publication) -> list[str]:
    query = select(Tag.name).where(
        Tag.repository_id == publication.repository_id, Tag.artifact_digest == publication.artifact_digest
    )
    return list(session.exec(query.order_by(col(Tag.name))))
