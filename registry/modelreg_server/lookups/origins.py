"""Where a blast begins: the artifacts that something asked for, a signer, a principal or a host stands behind."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlmodel import Session, col, or_, select

from modelreg.answers import Found
from modelreg.references import glob_matches
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.lookups.sight import Sight, visible
from modelreg_server.lookups.subjects import Subject
from modelreg_server.tables import Publication, Repository, RuntimeLoad, Signature

Kind = Literal["artifact", "signer", "principal", "host"]


@dataclass(frozen=True)
class Origin:
    """The first artifacts and why each is one."""

    kind: Kind
    asked: str
    roots: dict[str, str]
    found: list[Found]
    truncated: bool = False


def of_subject(session: Session, sight: Sight, subject: Subject, at: datetime) -> Origin:
    """The artifacts of a digest or reference; a SHA-256 that is nobody's bytes may be a signer's key."""
    if not subject.found and subject.digest.startswith("sha256:"):
        by_key = of_signer(session, sight, subject.digest, at)
        if by_key.roots:
            return by_key
    roots = {
        found.artifact: "made with the dataset"
        if found.by == "dataset"
        else "asked for"
        if found.path is None
        else f"has the file as {found.path}"
        for found in reversed(subject.found)  # the first way to it is the one that is told
    }
    roots = {artifact: roots[artifact] for artifact in subject.artifacts}
    return Origin("artifact", subject.asked, roots, subject.found, subject.truncated)


def of_signer(session: Session, sight: Sight, signer: str, at: datetime) -> Origin:
    """What somebody signed, by the recorded identity (`*` as in a revocation list) or key.

    Names and keys further up the chain are not looked at; `trust revoke signer --plan` does that.
    """
    signed = (
        select(Signature.identity, Publication.artifact_digest)
        .join(Publication, col(Publication.id) == col(Signature.publication_id))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(col(Signature.added_at) <= at, sight.covers(Repository.name))
        .order_by(col(Signature.id))
    )
    if signer.startswith("sha256:"):
        signed = signed.where(Signature.key_id == signer)
    elif "*" not in signer:
        signed = signed.where(Signature.identity == signer)
    roots = {
        artifact: f"signed by {identity}"
        for identity, artifact in session.exec(signed)
        if signer.startswith("sha256:") or glob_matches(signer, identity)
    }
    return Origin("signer", signer, roots, [])


def of_principal(session: Session, sight: Sight, principal: str, at: datetime) -> Origin:
    """What somebody published, or added a signature to."""
    published = (
        select(Publication.artifact_digest)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(
            Publication.published_by == principal, col(Publication.published_at) <= at, sight.covers(Repository.name)
        )
        .order_by(col(Publication.id))
    )
    signed = (
        select(Publication.artifact_digest)
        .join(Signature, col(Signature.publication_id) == col(Publication.id))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(Signature.added_by == principal, col(Signature.added_at) <= at, sight.covers(Repository.name))
        .order_by(col(Signature.id))
    )
    roots = dict.fromkeys(session.exec(published), f"published by {principal}")
    for artifact in session.exec(signed):
        roots.setdefault(artifact, f"signature added by {principal}")
    return Origin("principal", principal, roots, [])


def of_host(session: Session, sight: Sight, host: str, at: datetime) -> Origin:
    """What was published from a machine, granted to it or loaded on it, whether its name was verified or claimed."""
    found: set[tuple[str, str]] = set()
    for column in (CustodyEvent.verified_host, CustodyEvent.host):  # one index each; together they would use neither
        events = select(CustodyEvent.artifact, CustodyEvent.type).where(
            col(column) == host, col(CustodyEvent.recorded_at) <= at, sight.covers(CustodyEvent.repository)
        )
        found |= {(artifact, kind) for artifact, kind in session.exec(events.distinct()) if artifact is not None}
    loads = (
        select(RuntimeLoad.artifact_digest)
        .where(
            or_(col(RuntimeLoad.verified_host) == host, col(RuntimeLoad.host) == host),
            col(RuntimeLoad.loaded_at) <= at,
            sight.covers(RuntimeLoad.repository),
        )
        .distinct()
    )
    published = {artifact for artifact, kind in found if kind == EventType.ARTIFACT_PUBLISHED.value}
    granted = {artifact for artifact, kind in found if kind == EventType.ARTIFACT_GRANTED.value}
    roots = dict.fromkeys(sorted(published), f"published from {host}")
    for artifact in sorted(granted | set(session.exec(loads))):
        roots.setdefault(artifact, f"granted to or loaded on {host}")
    here = visible(session, sight, roots, at)
    return Origin("host", host, {artifact: why for artifact, why in roots.items() if artifact in here}, [])
