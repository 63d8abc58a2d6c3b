"""What an import's provenance must say before its bytes are published, and `artifact.imported`.

The statement is the importer's word, signed. Two things the registry knows better: who is sending it, and which files the
artifact has. So nobody can say that somebody else fetched it, and no file can slip in beside those that came from the source.
"""

from urllib.parse import urlsplit

from sqlmodel import Session, select

from modelreg import provenance
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.digests import sha256_of
from modelreg.errors import Forbidden, Invalid
from modelreg.manifests import Manifest
from modelreg.provenance import Import
from modelreg_server import custody
from modelreg_server.callers import Caller
from modelreg_server.custody import Event, EventType
from modelreg_server.tables import AttestationRow

MAX_SOURCE_CHARS = 1000  # of a source and a revision in an event, which has 8 KiB
MAX_REVISION_CHARS = 200


def read(verified: VerifiedAttestation) -> Import | None:
    """The import that a verified statement tells of, or None.

    Raises:
        SignatureInvalid: provenance that cannot be read.
    """
    if verified.attestation.kind is not Kind.PROVENANCE:
        return None
    made = provenance.read(verified.attestation.predicate)
    return made if isinstance(made, Import) else None


def require(caller: Caller, manifest: Manifest, verified: VerifiedAttestation) -> None:
    """Go on only if a statement that comes with the bytes is no import, or one that this caller made of these files.

    Raises:
        Forbidden: it names somebody else as whoever fetched them.
        Invalid: a file is missing in it, or has another digest; a source that no event can hold, or with a credential.
    """
    made = read(verified)
    if made is None:
        return
    if made.fetched_by != caller.principal.name:
        raise Forbidden(
            f"the provenance says that {made.fetched_by} fetched it, and it comes from {caller.principal.name}; import it "
            "with a token of your own"
        )
    _require_recordable(made)
    stated = {file.path: file.sha256 for file in made.files}
    if len(stated) != len(made.files):
        raise Invalid("the provenance of the import names a file twice", field="attestations")
    actual = {entry.path: entry.sha256 for entry in manifest.files}
    for path in sorted(stated.keys() | actual.keys()):
        if stated.get(path) != actual.get(path):
            raise Invalid(
                f"the provenance of the import has {stated.get(path) or 'no digest'} for {ascii(path)[1:200]}, the "
                f"artifact has {actual.get(path) or 'no such file'}; every file must be in it as it was fetched",
                field="attestations",
            )


def refuse_late(verified: VerifiedAttestation) -> None:
    """Refuse an import's provenance that comes without its bytes: nobody could hold it against them.

    Raises:
        Invalid: it is one.
    """
    if read(verified) is not None:
        raise Invalid("the provenance of an import comes with its bytes; import it again", field="bundle")


def record(session: Session, caller: Caller, repository: str, verified: VerifiedAttestation) -> None:
    """Append `artifact.imported` inside the caller's transaction, before the statement is kept; once a statement."""
    made = read(verified)
    if made is None:
        return
    statement = str(verified.attestation.digest)
    known = select(AttestationRow.id).where(
        AttestationRow.repository == repository, AttestationRow.statement == statement
    )
    if session.exec(known).first() is not None:
        return
    detail = {
        "source": made.source,
        "revision": made.revision,
        "statement": statement,
        "bundle": str(sha256_of(verified.raw_bundle)),
        "upstream_signature": str((made.upstream_signature or {}).get("verdict", "none"))[:40],
    }
    artifact = str(verified.attestation.subjects[0])
    custody.append(
        session, caller.actor, Event(EventType.ARTIFACT_IMPORTED, repository, artifact, detail=detail), caller.now
    )


def _require_recordable(made: Import) -> None:
    if len(made.source) > MAX_SOURCE_CHARS or len(made.revision) > MAX_REVISION_CHARS:
        raise Invalid("the provenance's source or revision is too long to be recorded", field="attestations")
    for text in (made.source, *(file.uri for file in made.files)):
        try:
            parts = urlsplit(text)
        except ValueError:
            raise Invalid("the provenance's source is no URL", field="attestations") from None
        # Both may be credentials, and what is recorded stays.
        if "@" in parts.netloc or parts.query:
            raise Invalid("the provenance's source holds credentials or a query; name it without", field="attestations")
