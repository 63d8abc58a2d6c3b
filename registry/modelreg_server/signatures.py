"""Who signed what, across every repository: what a revocation would withdraw."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlmodel import Session, col, select

from modelreg import bundles
from modelreg.digests import sha256_of
from modelreg.errors import SignatureInvalid
from modelreg.references import glob_matches
from modelreg.trust import MALFORMED, key_id_of
from modelreg_server.tables import Publication, Repository, Signature, Tag

MAX_SCANNED = 500  # rows looked at for one page


@dataclass(frozen=True)
class Signed:
    """A signature with what it signs."""

    signature: Signature
    publication: Publication
    repository: str
    tags: list[str]


def page(
    session: Session, *, identity: str | None, key: str | None, artifact: str | None, after: int, limit: int
) -> tuple[list[Signed], int | None]:
    """Signatures after a row that match everything that is given, and where to go on; None at the end.

    Args:
        identity: as in a revocation list, so `*` stands for any run of characters but `/`.
        key: sha256 of a key or of a certificate: the signer's, or one that the bundle carries.
        artifact: digest.
        after: id of the last row seen.
        limit: at most so many.
    """
    query = (
        select(Signature, Publication, Repository.name)
        .join(Publication, col(Publication.id) == col(Signature.publication_id))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(col(Signature.id) > after)
        .order_by(col(Signature.id))
    )
    if identity is not None:
        plain, star, _ = identity.partition("*")
        column = col(Signature.identity)
        query = query.where(column.startswith(plain, autoescape=True) if star else column == identity)
    if artifact is not None:
        query = query.where(Publication.artifact_digest == artifact)
    found: list[Signed] = []
    rows = session.exec(query.limit(MAX_SCANNED)).all()
    for signature, publication, repository in rows:
        assert signature.id is not None
        after = signature.id
        if identity is not None and not glob_matches(identity, signature.identity):
            continue
        if key is not None and key != signature.key_id and key not in _ids_in(signature.bundle):
            continue
        found.append(Signed(signature, publication, repository, _tags(session, publication)))
        if len(found) == limit:
            return found, after
    return found, after if len(rows) == MAX_SCANNED else None


def _ids_in(bundle: bytes) -> set[str]:
    """Keys and certificates of the chain a bundle carries, by each SHA-256 a revocation may name them."""
    found = set()
    try:
        for der in bundles.parse(bundle).certificates:
            certificate = x509.load_der_x509_certificate(der)
            found.add(str(key_id_of(certificate.public_key())))
            found.add(str(sha256_of(certificate.public_bytes(serialization.Encoding.DER))))
    except (SignatureInvalid, *MALFORMED):  # type: ignore[misc]  # mypy loses the types of an unpacked tuple
        return found
    return found


def _tags(session: Session, publication: Publication) -> list[str]:
    query = select(Tag.name).where(
        Tag.repository_id == publication.repository_id, Tag.artifact_digest == publication.artifact_digest
    )
    return list(session.exec(query.order_by(col(Tag.name))))
