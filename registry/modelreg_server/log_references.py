"""What stands beside the log and must agree with it: openings of commitments, and rows that name the event they rest on."""

import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlmodel import Session, SQLModel

from modelreg.attestations import REGISTRY, Kind
from modelreg.canonical import canonical_json
from modelreg.errors import LogNotIntact
from modelreg_server import log_entries
from modelreg_server.custody import CustodyEvent, EventType
from modelreg_server.custody_identities import CustodyIdentity, commitment_of
from modelreg_server.tables import (
    AttestationRow,
    DatasetRecord,
    GrantRow,
    PromotionDecision,
    Publication,
    Recall,
    Repository,
    RuntimeLoad,
    Tag,
    TrustFile,
    table_of,
)

_ROWS = 1000
# Row, its column for people, the types that its event may have, and what both say.
_RESTING: tuple[tuple[type[SQLModel], str, EventType | tuple[EventType, ...], dict[str, str]], ...] = (
    (GrantRow, "id", EventType.ARTIFACT_GRANTED, {"repository": "repository", "artifact_digest": "artifact"}),
    (Publication, "artifact_digest", EventType.ARTIFACT_PUBLISHED, {"artifact_digest": "artifact"}),
    (Tag, "name", EventType.TAG_MOVED, {"artifact_digest": "artifact", "name": "tag"}),
    (
        AttestationRow,
        "statement",
        (EventType.ARTIFACT_ATTESTED, EventType.ARTIFACT_SCANNED),  # which of them: `_scans`
        {"about_digest": "artifact", "repository": "repository"},
    ),
    (DatasetRecord, "name", EventType.DATASET_REGISTERED, {"digest": "artifact", "name": "repository"}),
    (TrustFile, "name", EventType.TRUST_PUBLISHED, {}),
    (
        RuntimeLoad,
        "id",
        EventType.ARTIFACT_LOADED,
        {"artifact_digest": "artifact", "repository": "repository", "host": "host", "verified_host": "verified_host"},
    ),
)
_KINDS = {EventType.ARTIFACT_QUARANTINED.value: "quarantine", EventType.ARTIFACT_REVOKED.value: "revocation"}
_WITHDRAWN = EventType.PROMOTION_WITHDRAWN.value
_LIFTING = (EventType.ARTIFACT_RELEASED.value, EventType.ARTIFACT_REVOKED.value)


def reference_findings(session: Session) -> Iterator[tuple[int, str]]:
    """Openings that do not open, and rows that rest on another event than they say; with the event's index."""
    yield from _openings(session)
    for resting in _RESTING:
        yield from _rows(session, *resting)
    yield from _scans(session)
    yield from _ended_loads(session)
    yield from _recalls(session)
    yield from _recalled_artifacts(session)
    yield from _tags(session)
    yield from _promotions(session)


def _openings(session: Session) -> Iterator[tuple[int, str]]:
    table = table_of(CustodyIdentity)
    last = ""
    while True:
        query = select(table).where(table.c.commitment > last).order_by(table.c.commitment).limit(_ROWS)
        found = session.connection().execute(query).all()
        for row in found:
            if not _opens(row):
                yield _first_naming(session, row.commitment), f"the opening of {row.commitment[:16]}… does not open it"
        if len(found) < _ROWS:
            return
        last = found[-1].commitment


def _opens(row: Any) -> bool:
    try:
        plain = canonical_json(row.body)
        opens = commitment_of(row.salt, plain) == row.commitment
    except (ValueError, TypeError):
        return False
    if not opens or hashlib.sha256(plain).hexdigest() != row.plain_sha256:
        return False
    body = row.body if isinstance(row.body, dict) else {}
    named = body.get("principal", body.get("about"))
    return not isinstance(named, str) or named[:200] == row.principal


def _first_naming(session: Session, commitment: str) -> int:
    event = table_of(CustodyEvent)
    query = select(event.c.index).where(or_(event.c.actor == commitment, event.c.about == commitment))
    return session.connection().execute(query.order_by(event.c.index).limit(1)).scalar() or 0


def _rows(
    session: Session, kind: type[SQLModel], name: str, wanted: EventType | tuple[EventType, ...], same: dict[str, str]
) -> Iterator[tuple[int, str]]:
    row, event = table_of(kind), table_of(CustodyEvent)
    differs = or_(
        event.c.index.is_(None),
        event.c.type.not_in([one.value for one in (wanted if isinstance(wanted, tuple) else (wanted,))]),
        *(event.c[theirs].is_distinct_from(row.c[ours]) for ours, theirs in same.items()),
    )
    joined = row.outerjoin(event, event.c.index == row.c.event_index)
    query = select(row.c.event_index, row.c[name]).select_from(joined).where(differs).order_by(row.c.event_index)
    for index, text in session.connection().execute(query.limit(100)):
        yield index, f"the {kind.__tablename__} {str(text)[:80]} rests on event {index}, which does not say so"


def _scans(session: Session) -> Iterator[tuple[int, str]]:
    """Scans by the registry, and other statements, that rest on each other's kind of event."""
    row, event = table_of(AttestationRow), table_of(CustodyEvent)
    own_scan = and_(row.c.authority == REGISTRY, row.c.kind == Kind.SCAN.value)
    scanned = event.c.type == EventType.ARTIFACT_SCANNED.value
    query = select(row.c.event_index, row.c.statement).select_from(row.join(event, event.c.index == row.c.event_index))
    attested = event.c.type == EventType.ARTIFACT_ATTESTED.value  # any other type is found by `_rows`
    query = query.where(or_(and_(own_scan, attested), and_(~own_scan, scanned))).order_by(row.c.event_index)
    for index, statement in session.connection().execute(query.limit(100)):
        yield index, f"the attestation {statement} rests on event {index}, which is not of its kind"


def _ended_loads(session: Session) -> Iterator[tuple[int, str]]:
    """Loads that ended without an event of theirs that says so."""
    load, event = table_of(RuntimeLoad), table_of(CustodyEvent)
    joined = load.outerjoin(event, event.c.index == load.c.ended_event_index)
    query = select(load.c.event_index, load.c.id, load.c.ended_event_index).select_from(joined)
    wrong = or_(
        load.c.ended_event_index.is_(None),
        event.c.type.is_distinct_from(EventType.ARTIFACT_UNLOADED.value),
        event.c.artifact.is_distinct_from(load.c.artifact_digest),
    )
    query = query.where(load.c.ended_at.is_not(None), wrong).order_by(load.c.event_index)
    for index, name, end in session.connection().execute(query.limit(100)):
        yield index, f"the runtime_load {name} ended, and event {end} does not say so"


def _recalls(session: Session) -> Iterator[tuple[int, str]]:
    """Recalls that say something else than the events that they rest on; they are few."""
    recall, event = table_of(Recall), table_of(CustodyEvent)
    lifting = event.alias()
    joined = recall.outerjoin(event, event.c.index == recall.c.event_index).outerjoin(
        lifting, lifting.c.index == recall.c.lifted_event_index
    )
    stands = (recall.c.kind, recall.c.artifact_digest, recall.c.id, recall.c.reason)
    lifted = (recall.c.lifted_at.is_not(None), recall.c.lifted_event_index, lifting.c.type, lifting.c.artifact)
    query = select(recall.c.event_index, event.c.entry, *stands, *lifted).select_from(joined)
    for row in session.connection().execute(query.order_by(recall.c.event_index)):
        index, entry, kind, artifact, name, reason, over, end, end_type, end_artifact = row
        if _recalled_by(entry) != (kind, artifact, name, reason):
            yield index, f"the recall {name} rests on event {index}, which does not say so"
        elif over and (end_type not in _LIFTING or end_artifact != artifact):
            yield index, f"the recall {name} was lifted, and event {end} does not say so"


def _recalled_by(entry: Any) -> tuple[Any, ...] | None:
    """Kind, artifact, id and reason of the recall that an entry tells of."""
    if not isinstance(entry, bytes):  # there is none, or SQLite holds something else
        return None
    try:
        members = log_entries.members_of(entry)
    except LogNotIntact:
        return None
    detail = members["detail"]
    return _KINDS.get(members["type"]), members["artifact"], detail.get("recall"), detail.get("reason")


def _recalled_artifacts(session: Session) -> Iterator[tuple[int, str]]:
    """Artifacts that are served, or not, against the word of the last event about that."""
    recall, event = table_of(Recall), table_of(CustodyEvent)
    types = (*_KINDS, EventType.ARTIFACT_RELEASED.value)
    last = (
        select(func.max(event.c.index).label("last"))
        .where(event.c.type.in_(types), event.c.artifact.is_not(None))
        .group_by(event.c.artifact)
        .subquery()
    )
    joined = last.join(event, event.c.index == last.c.last).outerjoin(
        recall, (recall.c.artifact_digest == event.c.artifact) & recall.c.lifted_at.is_(None)
    )
    query = select(event.c.index, event.c.type, event.c.artifact, recall.c.kind).select_from(joined)
    for index, kind, artifact, open_now in session.connection().execute(query.order_by(event.c.index)):
        if open_now != _KINDS.get(kind):
            yield (
                index,
                f"{artifact} has the recall {open_now or 'none'}, and event {index} says {kind}; recall it again",
            )


def _tags(session: Session) -> Iterator[tuple[int, str]]:
    """Tags that point elsewhere than they were moved last; in a repository, which the tag's row does not name."""
    tag, repository, event = table_of(Tag), table_of(Repository), table_of(CustodyEvent)
    moves = (
        select(event.c.repository, event.c.tag, func.max(event.c.index))
        .where(event.c.type == EventType.TAG_MOVED.value)
        .group_by(event.c.repository, event.c.tag)
    )
    last = {(place, name): index for place, name, index in session.connection().execute(moves)}
    query = select(repository.c.name, tag.c.name, tag.c.event_index).select_from(
        tag.join(repository, repository.c.id == tag.c.repository_id)
    )
    for place, name, index in session.connection().execute(query.order_by(tag.c.event_index)):
        if (moved := last.get((place, name))) != index:
            yield (
                moved if moved is not None else index,
                f"the tag {place}:{name} is as event {index} left it, and its last move is event {moved}",
            )


_DECIDED = {True: (EventType.PROMOTION_GRANTED.value,), False: (EventType.PROMOTION_REFUSED.value, _WITHDRAWN)}


def _promotions(session: Session) -> Iterator[tuple[int, str]]:
    """Decisions that rest on another event than they say, and those that hold against the word of a withdrawal."""
    row, event = table_of(PromotionDecision), table_of(CustodyEvent)
    ending = event.alias()
    joined = row.outerjoin(event, event.c.index == row.c.event_index).outerjoin(
        ending, ending.c.index == row.c.withdrawn_event_index
    )
    same = (event.c.repository == row.c.repository, event.c.artifact == row.c.artifact_digest)
    query = select(
        row.c.id, row.c.event_index, row.c.allowed, row.c.statement, event.c.entry, and_(*same).label("same"),
        row.c.withdrawn_at, row.c.withdrawn_event_index, ending.c.type,
    ).select_from(joined)  # fmt: skip
    withdrawn = _withdrawn_verdicts(session)
    for found in session.connection().execute(query.order_by(row.c.event_index)):
        members = _members(found.entry)
        said = members.get("type"), members.get("detail", {}).get("verdict")
        if not found.same or said[0] not in _DECIDED[found.allowed] or said[1] != found.statement:
            yield (
                found.event_index,
                f"the decision {found.id} rests on event {found.event_index}, which does not say so",
            )
        elif found.withdrawn_at is not None and found.type != _WITHDRAWN:
            yield found.event_index, f"the promotion {found.id} was withdrawn, and no event says so"
        elif found.allowed and found.withdrawn_at is None and found.statement in withdrawn:
            yield (
                withdrawn[found.statement],
                f"the promotion {found.id} holds, and event {withdrawn[found.statement]} ends it",
            )


def _withdrawn_verdicts(session: Session) -> dict[str, int]:
    """The verdicts that events withdraw, and by which."""
    event = table_of(CustodyEvent)
    query = select(event.c.index, event.c.entry).where(event.c.type == _WITHDRAWN)
    named = ((index, _members(entry)) for index, entry in session.connection().execute(query))
    return {str(members.get("detail", {}).get("withdrawn")): index for index, members in named}


def _members(entry: Any) -> dict[str, Any]:
    try:
        return dict(log_entries.members_of(entry)) if isinstance(entry, bytes) else {}
    except LogNotIntact:
        return {}
