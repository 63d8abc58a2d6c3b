"""Publishing: declare, upload what is missing, measure, finish. Every step can be repeated and resumed.

    begin    manifest and bundle verified, an attempt opened (or found again)        → which blobs are missing
    uploads  an upload opened for each named blob, under a key of its own            → which parts are written
    measure  the server reads the blob back                                          → it is what was declared, or gone
    finish   verified again; rows and `artifact.published` in one transaction        → the artifact exists

The two steps between are in `uploading`. A blob counts as present only if this attempt uploaded it or the caller may pull
an artifact that holds it: naming a digest yields nothing, not even that it exists.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from modelreg import statements, verification, wire
from modelreg.attestations import VerifiedAttestation
from modelreg.digests import sha256_of
from modelreg.errors import Conflict, DigestMismatch, ManifestInvalid
from modelreg.manifests import Manifest
from modelreg.trust import TrustPolicy
from modelreg_server import (
    attestations,
    countersigning,
    custody,
    derivations,
    harvesting,
    imports,
    parentage,
    recalls,
    scanning,
    uploading,
)
from modelreg_server.callers import Caller, denied
from modelreg_server.custody import Event, EventType
from modelreg_server.database import Database, insert_if_absent, one_at_a_time
from modelreg_server.identity import Principal, Verb
from modelreg_server.measuring import BlobFacts, facts_of
from modelreg_server.storage import BlobStore, Upload
from modelreg_server.tables import (
    Artifact,
    ArtifactFile,
    Attempt,
    Blob,
    BlobUpload,
    Publication,
    Repository,
    Signature,
)
from modelreg_server.tagging import move_tag

_QUERY_BATCH = 500  # bound parameters in one statement


@dataclass(frozen=True)
class Missing:
    """An open attempt and the blobs it still needs, by BLAKE3."""

    attempt: Attempt
    blobs: list[str]


def begin(
    database: Database,
    caller: Caller,
    repository: str,
    raw_manifest: bytes,
    raw_bundle: bytes,
    tags: Sequence[str],
    policy: TrustPolicy,
    lifetime: timedelta,
    parents: Sequence[wire.Parent] = (),
    attested: Sequence[str] = (),
) -> Missing:
    """Open an attempt, or find the caller's open one for the same artifact.

    Args:
        raw_manifest: untrusted.
        raw_bundle: untrusted; verified before a byte is uploaded, and again in `finish`.
        parents: what the caller says it was made from, known here or not.
        attested: bundles of statements about the artifact; untrusted, verified here and again in `finish`.

    A further signature on an artifact that is published here takes `sign`, anything else `push`.

    Raises:
        Untrusted: manifest or signature do not hold.
        Revoked, Quarantined: the artifact is recalled; no other repository takes it either.
        Forbidden: tags are asked for and the caller may not move tags here; or it may sign only, and there is nothing;
            or it names parents.
        Invalid: the artifact is named as its own parent.
        DigestMismatch: a file is declared with digests that do not belong together.
    """
    verified = verification.verify(raw_bundle, raw_manifest, policy=policy, repository=repository, now=caller.now)
    manifest = verified.manifest
    _require_tag_right(caller, repository, tags)
    _require_parents_right(caller, repository, parents)
    made_from = derivations.stored(str(manifest.digest), parents)
    _verify_attested(caller, repository, manifest, attested, policy)
    with database.writing() as session, session.begin():
        if not uploading.may_push_or_sign(session, caller, repository, str(manifest.digest)):
            raise denied(caller.principal, Verb.PUSH, repository)
        _require_not_recalled(session, str(manifest.digest))
        # A client whose answer is late begins again while the first request still runs.
        one_at_a_time(session, "begin", repository, str(manifest.digest), caller.principal.name)
        attempt = session.exec(
            select(Attempt).where(
                Attempt.repository == repository,
                Attempt.artifact_digest == str(manifest.digest),
                Attempt.principal == caller.principal.name,
                col(Attempt.event_index).is_(None),
                Attempt.expires_at > caller.now,
            )
        ).first()
        if attempt is None:
            attempt = Attempt(
                id=str(uuid.uuid4()),
                repository=repository,
                artifact_digest=str(manifest.digest),
                principal=caller.principal.name,
                manifest=raw_manifest,
                bundle=raw_bundle,
                tags=list(tags),
                parents=made_from,
                attestations=list(attested),
                created_at=caller.now,
                expires_at=caller.now + lifetime,
            )
            session.add(attempt)
        else:
            attempt.bundle, attempt.tags, attempt.parents = raw_bundle, list(tags), made_from
            attempt.attestations = list(attested)
        session.flush()
        blobs = _missing(session, caller.principal, attempt, manifest)
        session.expunge_all()
    return Missing(attempt, blobs)


def finish(
    database: Database,
    store: BlobStore,
    caller: Caller,
    attempt_id: str,
    policy: TrustPolicy,
    *,
    refuse_findings: bool = True,
) -> Attempt:
    """Make the artifact exist, with its tags, in one transaction; doing it again gives the same answer.

    What is new in the repository is scanned before, and what the scan says is published with it.

    Raises:
        Conflict: blobs are missing (facts: `missing_count`).
        PolicyRefused: the scan found what blocks, and `refuse_findings`.
        DigestMismatch, StorageUnavailable: the store does not give the bytes that were measured.
        Untrusted: the signature no longer holds under the policy of now.
        PolicyRefused: it is declared to be less sensitive than what it was made from.
        Revoked, Quarantined: the artifact was recalled meanwhile.
        Forbidden: the right to push, or to move the tags, ended meanwhile.
    """
    with database.reading() as session:
        attempt = uploading.open_attempt(session, caller, attempt_id)
        raw_manifest, raw_bundle, attested = attempt.manifest, attempt.bundle, attempt.attestations
        session.expunge_all()
    if attempt.event_index is not None:
        return attempt
    _require_tag_right(caller, attempt.repository, attempt.tags)
    _require_parents_right(caller, attempt.repository, attempt.parents)
    verified = verification.verify(
        raw_bundle, raw_manifest, policy=policy, repository=attempt.repository, now=caller.now
    )
    verified_statements = _verify_attested(caller, attempt.repository, verified.manifest, attested, policy)
    scanned = _scan(database, store, caller, attempt, verified.manifest)
    if scanned is not None and refuse_findings:
        scanning.require_clean(scanned.report)
    artifact = str(verified.manifest.digest)
    with database.reading() as session:
        wanted = harvesting.wanted(session, verified.manifest)
        keys = uploading.stored_keys(session, attempt_id, sorted({entry.blake3 for entry in wanted}))
    claims = harvesting.harvest(store, verified.manifest, wanted, keys)
    with database.writing() as session, session.begin():
        # Two requests may finish the same attempt; the second waits here and then sees what the first did.
        session.exec(select(Attempt.id).where(Attempt.id == attempt_id).with_for_update()).one_or_none()
        attempt = uploading.open_attempt(session, caller, attempt_id)
        if attempt.event_index is not None:
            session.expunge_all()
            return attempt
        if missing := _missing(session, caller.principal, attempt, verified.manifest):
            raise Conflict(f"{len(missing)} blobs are not uploaded and measured yet", missing_count=len(missing))
        redundant = _accept_blobs(session, attempt_id)
        _insert_artifact(session, verified.manifest)
        insert_if_absent(session, [Repository(name=attempt.repository, created_at=caller.now)])
        repository = session.exec(select(Repository).where(Repository.name == attempt.repository)).one()
        # From here on one publication at a time: the log's lock also decides who was first.
        custody.hold(session)
        _require_not_recalled(session, str(verified.manifest.digest))
        attempt.event_index, attempt.created = _publish(session, caller, repository, verified, policy, attempt.parents)
        parentage.claim(session, caller, artifact, claims, attempt.event_index)
        declared = []
        for statement in verified_statements:
            imports.record(session, caller, attempt.repository, statement)
            row = attestations.record(session, caller, attempt.repository, statement)
            declared.append(parentage.take(session, caller, statement, row))
        parentage.settle(session, caller, artifact, declared)
        for tag in attempt.tags:
            move_tag(session, caller, repository, tag, str(verified.manifest.digest))
        if scanned is not None and attempt.created:
            scanning.record(session, caller, attempt.repository, verified.manifest.digest, scanned)
        session.flush()
        session.expunge_all()
    # Committed. What a crash leaves from here on is an unreferenced object, which `sweep` removes.
    for upload in redundant:
        store.discard(upload)
    return attempt


def _verify_attested(
    caller: Caller, repository: str, manifest: Manifest, attested: Sequence[str], policy: TrustPolicy
) -> list[VerifiedAttestation]:
    verified = [
        attestations.verify(caller, repository, manifest.digest, bundle.encode(), policy, among=attestations.WITH_BYTES)
        for bundle in attested
    ]
    for statement in verified:
        imports.require(caller, manifest, statement)
    return verified


def _scan(
    database: Database, store: BlobStore, caller: Caller, attempt: Attempt, manifest: Manifest
) -> scanning.Scanned | None:
    """Scan what is about to be published. None where the repository holds it already: `scanning.again` is for that.

    Raises:
        Conflict: blobs are missing.
    """
    with database.reading() as session:
        held = (
            select(Publication.id)
            .join(Repository, col(Repository.id) == col(Publication.repository_id))
            .where(Repository.name == attempt.repository, Publication.artifact_digest == str(manifest.digest))
        )
        if session.exec(held).one_or_none() is not None:
            return None
        if missing := _missing(session, caller.principal, attempt, manifest):
            raise Conflict(f"{len(missing)} blobs are not uploaded and measured yet", missing_count=len(missing))
        keys = uploading.stored_keys(session, attempt.id, sorted({entry.blake3 for entry in manifest.files}))
    report = scanning.scan(store, manifest, keys)
    return scanning.state(report, caller, attempt.repository, manifest.digest, database.log_signer)


def _require_tag_right(caller: Caller, repository: str, tags: Sequence[str]) -> None:
    if tags and not caller.principal.may(Verb.TAG, repository):
        detail = f"{caller.principal.name} may push to {repository} but not move tags; push without --tag"
        raise denied(caller.principal, Verb.TAG, repository, detail=detail)


def _require_not_recalled(session: Session, artifact: str) -> None:
    """A recall holds in every repository, also in one that the artifact is only about to come to."""
    if (refusal := recalls.refusal(session, artifact)) is not None:
        raise refusal


def _require_parents_right(caller: Caller, repository: str, parents: Sequence[object]) -> None:
    if parents and not caller.principal.may(Verb.PUSH, repository):
        detail = f"{caller.principal.name} may sign in {repository} but not say what was made from what"
        raise denied(caller.principal, Verb.PUSH, repository, detail=detail)


def _missing(session: Session, principal: Principal, attempt: Attempt, manifest: Manifest) -> list[str]:
    """Blobs that are neither measured in this attempt nor in an artifact the principal may pull.

    Who may only sign sends none: what they sign is here.
    """
    if not principal.may(Verb.PUSH, attempt.repository):
        return []
    stated = {facts_of(entry) for entry in manifest.files}
    declared = {facts.blake3: facts for facts in stated}
    if len(stated) != len(declared):
        raise ManifestInvalid("the manifest gives one BLAKE3 to different bytes")
    query = select(BlobUpload.blake3).where(
        BlobUpload.attempt_id == attempt.id, col(BlobUpload.measured_at).is_not(None)
    )
    present = set(session.exec(query))
    wanted = sorted(declared.keys() - present)
    for start in range(0, len(wanted), _QUERY_BATCH):
        present |= _readable(session, principal, declared, wanted[start : start + _QUERY_BATCH])
    return sorted(declared.keys() - present)


def _readable(
    session: Session, principal: Principal, declared: dict[str, BlobFacts], wanted: Sequence[str]
) -> set[str]:
    """Which of the wanted blobs the principal may pull already, through any artifact in any repository."""
    holders = (
        select(ArtifactFile.blake3, Repository.name, Repository.sensitive)
        .join(Publication, col(Publication.artifact_digest) == col(ArtifactFile.artifact_digest))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(col(ArtifactFile.blake3).in_(wanted))
        .distinct()
    )
    readable = {
        blake3
        for blake3, name, sensitive in session.exec(holders)
        if principal.may(Verb.PULL, name, sensitive=sensitive)
    }
    if not readable:
        return set()
    for blob in session.exec(select(Blob).where(col(Blob.blake3).in_(readable))):
        known = BlobFacts(blob.blake3, blob.sha256, blob.chunks_sha256, blob.size_bytes)
        if known != declared[blob.blake3]:
            raise DigestMismatch(
                f"the manifest gives blake3:{blob.blake3} another size, sha256 or chunks than that blob has",
                expected=f"sha256:{known.sha256}",
                measured=f"sha256:{declared[blob.blake3].sha256}",
            )
    return readable


def _accept_blobs(session: Session, attempt_id: str) -> list[Upload]:
    """Make this attempt's uploads the accepted ones where there is none; returns the uploads nobody needs."""
    redundant = []
    # In key order, so that two publications sharing blobs cannot wait for each other.
    query = select(BlobUpload).where(BlobUpload.attempt_id == attempt_id).order_by(BlobUpload.blake3)
    for row in session.exec(query):
        if row.measured_at is not None:
            candidate = Blob(
                blake3=row.blake3,
                sha256=row.sha256,
                chunks_sha256=row.chunks_sha256,
                size_bytes=row.size_bytes,
                key=row.key,
                measured_at=row.measured_at,
            )
            insert_if_absent(session, [candidate])
            if session.get_one(Blob, row.blake3).key == row.key:
                continue
        redundant.append(uploading.upload_of(row))
    return redundant


def _insert_artifact(session: Session, manifest: Manifest) -> None:
    digest = str(manifest.digest)
    row = Artifact(
        digest=digest,
        manifest=manifest.raw,
        size_bytes=manifest.total_bytes,
        file_count=len(manifest.files),
        root_digest=str(statements.root_digest(entry.sha256 for entry in manifest.files)),
    )
    if insert_if_absent(session, [row]):
        files = [
            ArtifactFile(artifact_digest=digest, path=entry.path, blake3=entry.blake3, sha256=entry.sha256)
            for entry in manifest.files
        ]
        insert_if_absent(session, files)


def _publish(
    session: Session,
    caller: Caller,
    repository: Repository,
    verified: verification.VerifiedManifest,
    policy: TrustPolicy,
    parents: Sequence[dict[str, str]],
) -> tuple[int, bool]:
    """The publication, its signature and parents; returns the index of `artifact.published` and whether it is new."""
    assert repository.id is not None
    digest, signer = str(verified.manifest.digest), verified.signer
    detail = {
        "size_bytes": verified.manifest.total_bytes,
        "files": len(verified.manifest.files),
        "authority": signer.authority,
        "key": str(signer.key_ids[0]),
        "bundle": str(sha256_of(verified.raw_bundle)),
    }
    # Often somebody's address: it can be erased with whoever published it.
    named_by: dict[str, Any] = {"about": caller.principal.name, "personal": {"identity": signer.identity}}
    publication = session.exec(
        select(Publication).where(Publication.repository_id == repository.id, Publication.artifact_digest == digest)
    ).one_or_none()
    created = publication is None
    if publication is None:
        named = {**detail, **derivations.detail_of(parents)}
        event = Event(EventType.ARTIFACT_PUBLISHED, repository.name, digest, detail=named, **named_by)
        publication = Publication(
            repository_id=repository.id,
            artifact_digest=digest,
            published_at=caller.now,
            published_by=caller.principal.name,
            event_index=custody.append(session, caller.actor, event, caller.now),
        )
        session.add(publication)
        session.flush()
        derivations.record(session, digest, parents, publication.event_index, caller.now)
    elif further := derivations.new_of(session, digest, parents):
        event = Event(EventType.ARTIFACT_DERIVED, repository.name, digest, detail=derivations.detail_of(further))
        derivations.record(
            session, digest, further, custody.append(session, caller.actor, event, caller.now), caller.now
        )
    assert publication.id is not None
    signature = Signature(
        publication_id=publication.id,
        key_id=str(signer.key_ids[0]),
        bundle=verified.raw_bundle,
        authority=signer.authority,
        identity=signer.identity,
        added_at=caller.now,
        added_by=caller.principal.name,
        signed_at=signer.signed_at,
    )
    if not countersigning.keep(session, signature, verified, policy):
        return publication.event_index, created
    if not created:
        event = Event(EventType.ARTIFACT_SIGNED, repository.name, digest, detail=detail, **named_by)
        custody.append(session, caller.actor, event, caller.now)
    return publication.event_index, created
