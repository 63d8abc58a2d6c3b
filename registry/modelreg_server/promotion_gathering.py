"""What is known of an artifact now, for a promotion policy to read: the only queries that a decision rests on.

Nothing is taken from how it was recorded that can be proven again: signatures, provenance, scans, approvals and waivers are
verified under the trust policy of now (`promotion_statements`), so that a signer who is no longer trusted no longer counts.
Rows say when the registry heard of something, and from whom.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from modelreg import approvals, attestations, bundles, manifests, scans, verification
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.digests import Digest
from modelreg.errors import ModelregError, NotFound, PolicyRefused, SignatureInvalid
from modelreg.promotion_facts import (
    ApprovalFact,
    Facts,
    FindingFact,
    FormatFact,
    LicenceFact,
    ScanFact,
    SignatureFact,
    SourceFact,
    WaiverFact,
)
from modelreg.provenance import Import
from modelreg.trust import MAX_CLOCK_SKEW
from modelreg_server import promotion_classes, promotion_lineage
from modelreg_server.promotion_lineage import Lineage
from modelreg_server.promotion_statements import Believing, Statements
from modelreg_server.tables import (
    Artifact,
    ArtifactFile,
    AttestationRow,
    Blob,
    ModelClaim,
    Publication,
    Repository,
    Signature,
)

MAX_SIGNATURES = 64
MAX_FINDINGS = 200  # of one scan; those that block come first
MAX_FORMATS = 200
_MAX_TEXT = 500
_CHECKED = {"unchanged": False, "drift": True, "gone": True}  # what a source check says


@dataclass(frozen=True)
class Gathered:
    """The facts, and the digests of the signed statements that they rest on."""

    facts: Facts
    statements: frozenset[str]


def gather(session: Session, believing: Believing, repository: str, artifact: str, environment: str) -> Gathered:
    """Everything that is known of an artifact of a repository at `believing.now`.

    Raises:
        NotFound: the repository does not hold the artifact.
        PolicyRefused: more is said of it than can be looked at.
    """
    query = (
        select(Publication, Repository.sensitive, Artifact)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .join(Artifact, col(Artifact.digest) == col(Publication.artifact_digest))
        .where(Repository.name == repository, Publication.artifact_digest == artifact)
    )
    found = session.exec(query).one_or_none()
    if found is None:
        raise NotFound(f"{repository} has no artifact {artifact}, or this token may not see it")
    publication, sensitive, row = found
    statements = Statements(session, believing)
    lineage = promotion_lineage.walk(statements, repository, artifact)
    facts = Facts(
        evaluated_at=believing.now,
        environment=environment,
        repository=repository,
        artifact=artifact,
        publisher=publication.published_by,
        published_at=publication.published_at,
        measured=_measured(session, row),
        sensitive_repository=sensitive,
        recalled=promotion_lineage.recalls_of(statements, [artifact]).get(artifact),
        signatures=_signatures(session, believing, publication, row, repository),
        source=_source(statements, lineage, row.manifest, repository),
        scans=_scans(statements, repository, artifact),
        relation=lineage.relation,
        ancestors=promotion_lineage.ancestors_of(statements, lineage),
        cycle=lineage.cycle,
        datasets=lineage.datasets,
        classification=promotion_classes.class_of(statements, lineage),
        licence=_licence(session, lineage),
        approvals=_approvals(statements, repository, artifact, environment),
        waivers=_waivers(statements, repository, artifact, environment),
    )
    return Gathered(facts, frozenset(statements.used))


def _measured(session: Session, artifact: Artifact) -> bool:
    """Whether every file has bytes that the registry measured itself."""
    query = (
        select(func.count())
        .select_from(ArtifactFile)
        .join(Blob, (col(Blob.blake3) == col(ArtifactFile.blake3)) & (col(Blob.sha256) == col(ArtifactFile.sha256)))
        .where(ArtifactFile.artifact_digest == artifact.digest)
    )
    return session.exec(query).one() == artifact.file_count


def _signatures(
    session: Session, believing: Believing, publication: Publication, artifact: Artifact, repository: str
) -> tuple[SignatureFact, ...]:
    query = select(Signature).where(Signature.publication_id == publication.id).order_by(col(Signature.id))
    rows = session.exec(query.limit(MAX_SIGNATURES + 1)).all()
    if len(rows) > MAX_SIGNATURES:
        # Whoever signed may not approve: all of them have to be known.
        raise PolicyRefused(
            f"{artifact.digest} has more than {MAX_SIGNATURES} signatures in {repository}, too many to look at"
        )
    found = []
    for row in rows:
        try:
            verified = verification.verify(
                row.bundle,
                artifact.manifest,
                policy=believing.policy,
                repository=repository,
                now=believing.now,
                artifact=Digest.parse(artifact.digest),
            )
        except ModelregError as error:
            why = f"{error.code}: {error.detail}"[:_MAX_TEXT]
            fact = SignatureFact(
                identity=row.identity, authority=row.authority, valid=False, why=why, signed_at=row.signed_at
            )
        else:
            signer = verified.signer
            fact = SignatureFact(
                identity=signer.identity,
                authority=signer.authority,
                valid=True,
                why=None,
                signed_at=signer.signed_at,
            )
        found.append(fact)
        session.expire(row, ["bundle"])  # up to 64 MiB each
    return tuple(found)


def _source(statements: Statements, lineage: Lineage, raw_manifest: bytes, repository: str) -> SourceFact | None:
    imports = lineage.made[lineage.artifact].imports()
    if not imports:
        return None
    made, statement, identity = imports[-1]
    signature = made.upstream_signature or {}
    return SourceFact(
        uri=made.source,
        revision=made.revision,
        statement=statement,
        identity=identity,
        fetched_by=made.fetched_by,
        matched=_matched(made, raw_manifest),
        upstream_signature=_text(signature.get("verdict")) or "none",
        drift=_drift(statements, lineage.artifact, repository),
    )


def _matched(made: Import, raw_manifest: bytes) -> bool | None:
    """Whether the artifact is what was fetched, and that what upstream declares; None where upstream declares nothing."""
    fetched = {file.path: file for file in made.files}
    declared = False
    for entry in manifests.parse(raw_manifest).files:
        file = fetched.get(entry.path)
        if file is None or file.sha256 != entry.sha256:
            return False
        if (upstream := file.upstream.get("sha256")) is not None:
            declared = True
            if upstream != entry.sha256:
                return False
    return declared or None


def _drift(statements: Statements, artifact: str, repository: str) -> bool | None:
    for _, verified in statements.believed(statements.newest_of(Kind.SOURCE_CHECK, artifact, repository)):
        result = verified.attestation.predicate.get("result")
        if result in _CHECKED:  # one that did not reach the source says nothing
            return _CHECKED[result]
    return None


def _licence(session: Session, lineage: Lineage) -> LicenceFact | None:
    """The licence that a signed import states; else the one that the artifact's own files claim, if they agree."""
    for made, _, _ in reversed(lineage.made[lineage.artifact].imports()):
        if made.licence is not None:
            return LicenceFact(value=made.licence, grade="attested")
    query = (
        select(ModelClaim.value).where(ModelClaim.artifact == lineage.artifact, ModelClaim.kind == "licence").distinct()
    )
    claimed = session.exec(query.limit(2)).all()
    return LicenceFact(value=claimed[0], grade="claimed") if len(claimed) == 1 else None


def _scans(statements: Statements, repository: str, artifact: str) -> tuple[ScanFact, ...]:
    """The newest of each tool and signer, as the registry heard of them; newest first.

    One that cannot be read, or is from the future, may object to anything: what its signer said before it does not count.
    """
    found: dict[tuple[str, str, str], ScanFact] = {}
    unclear: set[tuple[str, str]] = set()
    latest = statements.held_against.now + MAX_CLOCK_SKEW
    for row in statements.newest_of(Kind.SCAN, artifact, repository):
        try:
            verified = statements.verify(row)
        except ModelregError:
            continue  # nobody's word, as of now
        signer = (verified.signer.authority, verified.signer.identity)
        if signer in unclear:
            continue
        try:
            fact = _scan(verified)
        except SignatureInvalid:
            unclear.add(signer)
            continue
        if fact.scanned_at > latest:
            unclear.add(signer)
        elif (*signer, fact.tool) not in found:
            statements.use(verified)
            found[*signer, fact.tool] = fact
    return tuple(sorted(found.values(), key=lambda fact: (fact.scanned_at, fact.statement), reverse=True))


def _scan(verified: VerifiedAttestation) -> ScanFact:
    """What a scan states, cut to what a person reads.

    Raises:
        SignatureInvalid: it is none.
    """
    said = scans.read(verified.attestation.predicate)
    findings = [
        FindingFact(
            rule=one.rule[:_MAX_TEXT], path=one.path[:_MAX_TEXT], severity=one.severity, what=one.what[:_MAX_TEXT]
        )
        for one in said.findings
    ]
    findings.sort(key=lambda one: (one.severity, one.rule, one.path, one.what))  # "block" comes before "warn"
    return ScanFact(
        tool=said.tool[:_MAX_TEXT],
        tool_version=said.tool_version[:_MAX_TEXT],
        rules_version=said.rules_version[:_MAX_TEXT],
        scanned_at=said.scanned_at,
        complete=said.complete,
        findings=tuple(findings[:MAX_FINDINGS]),
        statement=str(verified.attestation.digest),
        identity=verified.signer.identity,
        formats=_formats(said.formats),
    )


def _formats(formats: Mapping[str, str]) -> tuple[FormatFact, ...] | None:
    by_format: dict[str, list[str]] = {}
    for path in sorted(formats):
        by_format.setdefault(formats[path], []).append(path)
    if len(by_format) > MAX_FORMATS:
        return None
    return tuple(FormatFact(format=name, files=len(paths), path=paths[0]) for name, paths in sorted(by_format.items()))


def _approvals(statements: Statements, repository: str, artifact: str, environment: str) -> tuple[ApprovalFact, ...]:
    """Every approval that holds, oldest first; who may count as an approver the policy says."""
    found = []
    rows = statements.all_of(Kind.APPROVAL, [artifact], repository)
    for row in rows:
        try:
            verified = statements.verify(row)
            approval = approvals.read_approval(verified.attestation.predicate, verified.attestation.subjects[0])
        except ModelregError:
            continue
        if approval.environment == environment and approval.by == row.added_by:
            statements.use(verified)
            found.append(
                ApprovalFact(
                    principal=row.added_by,
                    identity=verified.signer.identity,
                    approved_at=row.added_at,
                    statement=str(verified.attestation.digest),
                )
            )
    return tuple(found)


def _waivers(statements: Statements, repository: str, artifact: str, environment: str) -> tuple[WaiverFact, ...]:
    """Every waiver for this artifact, oldest first; also those that do not hold, and why."""
    found = []
    for row in statements.all_of(Kind.WAIVER, [artifact], repository):
        try:
            fact = _waiver(statements, row, environment)
        except ModelregError:
            continue  # it says nothing that could be shown
        found.append(fact)
    return tuple(found)


def _waiver(statements: Statements, row: AttestationRow, environment: str) -> WaiverFact:
    now = statements.held_against.now
    identity, why = row.identity, None
    said = attestations.parse(bundles.parse(row.bundle).payload)
    waiver = approvals.read_waiver(said.predicate, Digest.parse(row.about_digest))
    try:
        verified = statements.verify(row)
    except ModelregError as error:
        why = f"{error.code}: {error.detail}"[:_MAX_TEXT]
    else:
        identity = verified.signer.identity
        statements.use(verified)
    if why is None and waiver.by != row.added_by:
        why = f"it is signed as by {waiver.by}, and {row.added_by} sent it"
    if why is None and waiver.environment != environment:
        why = f"it is for {waiver.environment}"
    if why is None and now >= waiver.expires_at:
        why = f"it ended at {waiver.expires_at:%Y-%m-%d %H:%M}Z"
    return WaiverFact(
        rule=waiver.rule,
        environment=waiver.environment,
        reason=waiver.reason,
        principal=row.added_by,
        identity=identity,
        expires_at=waiver.expires_at,
        statement=str(said.digest),
        valid=why is None,
        why=why,
        waived_at=row.added_at,
    )


def _text(untrusted: Any) -> str | None:
    return untrusted[:_MAX_TEXT] if isinstance(untrusted, str) and untrusted else None
