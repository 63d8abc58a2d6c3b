"""What is recorded of one artifact, with the proofs of its log entries: the registry's part of an evidence file."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, or_, select

from modelreg import merkle
from modelreg.errors import Invalid, NotFound, TooLarge
from modelreg_server import custody_identities, custody_tree
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.group_commit import Recorder
from modelreg_server.tables import Artifact, Derivation, Publication, Recall, Repository, Signature, Tag

MAX_EVENTS = 256  # a page
MAX_DOSSIER_BYTES = 200 * 1024 * 1024  # of manifest and bundles
MAX_DERIVATIONS = 10_000


@dataclass(frozen=True)
class Published:
    """A publication with its bundles and present tags."""

    publication: Publication
    repository: str
    tags: list[str]
    signatures: list[Signature]


@dataclass(frozen=True)
class Dossier:
    """Everything about an artifact but its entries. `checkpoint` is of `size` entries, cosigned where witnesses are asked."""

    manifest: bytes
    publications: list[Published]
    derivations: list[Derivation]
    recalls: list[Recall]
    checkpoint: bytes
    size: int


@dataclass(frozen=True)
class Proved:
    """An entry and its audit path."""

    index: int
    entry: bytes
    path: list[bytes]


@dataclass(frozen=True)
class Page:
    """Entries in order, what opens their commitments as far as it was not erased, and where to go on."""

    events: list[Proved]
    openings: list[CustodyIdentity]
    next_after: int | None


def dossier(session: Session, artifact: str, recorder: Recorder) -> Dossier:
    """What is recorded of an artifact.

    Raises:
        NotFound: it was never published here.
        TooLarge: its bundles in all repositories exceed 200 MiB.
        RecordUnavailable: the log has no signed head yet.
    """
    stored = session.get(Artifact, artifact)
    if stored is None:
        raise NotFound(f"{artifact} was never published here, so that there is nothing to give evidence of")
    published = _publications(session, artifact)
    held = len(stored.manifest) + sum(len(s.bundle) for item in published for s in item.signatures)
    if held > MAX_DOSSIER_BYTES:
        raise TooLarge(
            f"manifest and bundles have {held} bytes; the limit is {MAX_DOSSIER_BYTES}", limit=MAX_DOSSIER_BYTES
        )
    edges = or_(col(Derivation.child) == artifact, col(Derivation.parent) == artifact)
    order = (col(Derivation.event_index), col(Derivation.child), col(Derivation.parent), col(Derivation.relation))
    derivations = session.exec(select(Derivation).where(edges).order_by(*order).limit(MAX_DERIVATIONS)).all()
    recalls = session.exec(
        select(Recall).where(Recall.artifact_digest == artifact).order_by(col(Recall.event_index), col(Recall.id))
    ).all()
    # The head last: on PostgreSQL each of these looks anew, and no row may name an entry that the checkpoint does not cover.
    head = recorder.newest()
    return Dossier(stored.manifest, published, list(derivations), list(recalls), head.note, head.size)


def events(session: Session, artifact: str, *, size: int, after: int) -> Page:
    """The entries about an artifact in the log of `size` entries, and the newest one about the trust files, with proofs.

    Raises:
        Invalid: the log is not that long.
    """
    there = session.exec(select(CustodyHead.size)).one_or_none() or 0
    if not 0 < size <= there:
        raise Invalid(f"the custody log has {there} entries, not {size}", field="size")
    trust = (
        select(CustodyEvent.index)
        .where(CustodyEvent.type == EventType.TRUST_PUBLISHED.value, col(CustodyEvent.index) < size)
        .order_by(col(CustodyEvent.index).desc())
        .limit(1)
    )
    about = or_(col(CustodyEvent.artifact) == artifact, col(CustodyEvent.index).in_(session.exec(trust).all()))
    query = select(CustodyEvent.index, CustodyEvent.entry, CustodyEvent.actor, CustodyEvent.about).where(
        about, col(CustodyEvent.index) > after, col(CustodyEvent.index) < size
    )
    rows = session.exec(query.order_by(col(CustodyEvent.index)).limit(MAX_EVENTS)).all()
    read = _remembering(custody_tree.reader(session))
    proved = [Proved(index, entry, merkle.inclusion(index, size, read)) for index, entry, *_ in rows]
    opened = custody_identities.opened(session, [name for row in rows for name in row[2:]])
    openings = [opened[name] for name in sorted(opened)]
    return Page(proved, openings, rows[-1][0] if len(rows) == MAX_EVENTS else None)


def _publications(session: Session, artifact: str) -> list[Published]:
    rows = session.exec(
        select(Publication, Repository.name)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(Publication.artifact_digest == artifact)
        .order_by(col(Publication.event_index))
    ).all()
    found = []
    for publication, repository in rows:
        tags = select(Tag.name).where(Tag.repository_id == publication.repository_id, Tag.artifact_digest == artifact)
        bundles = select(Signature).where(Signature.publication_id == publication.id).order_by(col(Signature.id))
        found.append(Published(publication, repository, sorted(session.exec(tags)), list(session.exec(bundles))))
    return found


def _remembering(read: merkle.NodeReader) -> merkle.NodeReader:
    """Audit paths of one page share most of their nodes."""
    known: dict[merkle.Node, bytes] = {}

    def remembering(nodes: Sequence[merkle.Node]) -> list[bytes]:
        missing = [node for node in nodes if node not in known]
        known.update(zip(missing, read(missing), strict=True))
        return [known[node] for node in nodes]

    return remembering
