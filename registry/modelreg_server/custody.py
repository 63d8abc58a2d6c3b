"""The record: append-only custody events, written in the same transaction as the state they tell of.

`append` is the only writer; a trigger in both databases refuses UPDATE and DELETE (the migration makes it). Indexes are
contiguous from 0: the head row is locked until the caller's transaction ends, so nobody sees a gap and nobody shares a
number. An entry is RFC 8785 JSON of at most 8 KiB; its bytes are a leaf of the Merkle tree (`custody_tree`), and who did it
stands there as a commitment (`custody_identities`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, String
from sqlmodel import Field, Session, SQLModel, col, select

from modelreg.canonical import canonical_json
from modelreg.errors import TooLarge
from modelreg_server import custody_identities, custody_tree
from modelreg_server.access import HostFacts
from modelreg_server.tables import UtcDateTime

MAX_ENTRY_BYTES = 8 * 1024
MAX_TEXT_CHARS = 200


class EventType(StrEnum):
    """`noun.past-participle`. A retired type keeps its place here as a comment."""

    ARTIFACT_PUBLISHED = "artifact.published"
    ARTIFACT_SIGNED = "artifact.signed"  # a further signature on a published artifact
    ARTIFACT_IMPORTED = "artifact.imported"  # the publication of what came from a source outside
    ARTIFACT_ATTESTED = "artifact.attested"  # a signed statement about an artifact
    ARTIFACT_SCANNED = "artifact.scanned"  # by the registry itself
    DATASET_REGISTERED = "dataset.registered"
    ARTIFACT_DERIVED = "artifact.derived"  # further parents of a published artifact
    ARTIFACT_GRANTED = "artifact.granted"
    ARTIFACT_REFUSED = "artifact.refused"
    ARTIFACT_RECEIVED = "artifact.received"
    ARTIFACT_LOADED = "artifact.loaded"
    ARTIFACT_UNLOADED = "artifact.unloaded"
    ARTIFACT_ALTERED = "artifact.altered"  # a host found other bytes on its disk than it was given
    ARTIFACT_QUARANTINED = "artifact.quarantined"
    ARTIFACT_RELEASED = "artifact.released"  # a quarantine that was lifted
    ARTIFACT_REVOKED = "artifact.revoked"
    RECALL_CONFIRMED = "recall.confirmed"  # a host says what it did with a recalled artifact
    PROMOTION_GRANTED = "promotion.granted"
    PROMOTION_REFUSED = "promotion.refused"
    PROMOTION_WITHDRAWN = "promotion.withdrawn"  # by somebody, or because the facts changed
    POLICY_CHANGED = "policy.changed"
    TAG_MOVED = "tag.moved"
    TAG_RESOLVED = "tag.resolved"
    TRUST_PUBLISHED = "trust.published"
    TOKEN_ISSUED = "token.issued"  # noqa: S105  # an event's name
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    TOKEN_EXCHANGED = "token.exchanged"  # noqa: S105  # an issuer's token for a session token
    ACCESS_GRANTED = "access.granted"
    ACCESS_REVOKED = "access.revoked"
    ACCESS_DENIED = "access.denied"  # a refused pull is `artifact.refused` instead
    REPOSITORY_CHANGED = "repository.changed"
    HOST_INVITED = "host.invited"
    HOST_ENROLLED = "host.enrolled"
    HOST_REVOKED = "host.revoked"
    IDENTITY_ERASED = "identity.erased"
    LOG_RECOVERED = "log.recovered"


@dataclass(frozen=True)
class Actor:
    """Who does it, from the verified credential, on which host; address and agent as the connection shows them.

    `identity` is what stands behind a session token: the issuer, its subject and the claims that a rule used.
    """

    principal: str
    token_id: str | None
    client_address: str | None = None
    user_agent: str | None = None
    identity: dict[str, Any] | None = None
    host: HostFacts | None = None


@dataclass(frozen=True)
class Event:
    """What to append. `host` and `purpose` are the client's words; `detail` holds JSON values, big things by digest.

    The host that is known stands in the actor. What of the detail names a person stands in `personal`, which can be erased;
    `about` is that person or workload, if it is one.
    """

    type: EventType
    repository: str | None = None
    artifact: str | None = None
    tag: str | None = None
    host: str | None = None
    purpose: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    about: str | None = None
    personal: dict[str, Any] = field(default_factory=dict)


class CustodyEvent(SQLModel, table=True):
    """One row of the log. `entry` is the canonical JSON and the truth; the other columns are for finding it."""

    __tablename__ = "custody_event"
    __table_args__ = (
        # What `lookups.reach` reads: every column, in the order in which it groups.
        Index(
            "ix_custody_event_reach",
            *("artifact", "type", "verified_host", "host", "principal", "recorded_at", "repository", "index"),
        ),
    )

    index: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    type: str = Field(index=True, max_length=40)
    recorded_at: datetime = Field(sa_type=UtcDateTime)
    principal: str = Field(index=True, max_length=200)
    token_id: str | None = Field(max_length=36)
    repository: str | None = Field(index=True, max_length=128)
    artifact: str | None = Field(max_length=71)
    tag: str | None = Field(max_length=128)
    host: str | None = Field(index=True, sa_type=String(MAX_TEXT_CHARS))
    client_address: str | None = Field(max_length=100)
    user_agent: str | None = Field(max_length=MAX_TEXT_CHARS)
    purpose: str | None = Field(max_length=40)
    detail: dict[str, Any] = Field(sa_type=JSON)
    entry: bytes = Field(sa_type=LargeBinary)
    identity: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    verified_host: str | None = Field(default=None, index=True, max_length=100)
    verified_host_class: str | None = Field(default=None, max_length=20)
    verified_host_zone: str | None = Field(default=None, max_length=63)
    actor: str | None = Field(default=None, index=True, max_length=64)
    about: str | None = Field(default=None, index=True, max_length=64)


# What a decision to grant rests on: who may, from where, and what is distrusted.
DECISIVE = frozenset(
    {
        EventType.ARTIFACT_SIGNED,
        EventType.ARTIFACT_ATTESTED,
        EventType.ARTIFACT_SCANNED,
        EventType.DATASET_REGISTERED,
        EventType.ARTIFACT_DERIVED,
        EventType.PROMOTION_GRANTED,
        EventType.PROMOTION_WITHDRAWN,
        EventType.POLICY_CHANGED,
        EventType.ARTIFACT_QUARANTINED,
        EventType.ARTIFACT_RELEASED,
        EventType.ARTIFACT_REVOKED,
        EventType.TRUST_PUBLISHED,
        EventType.TOKEN_REVOKED,
        EventType.ACCESS_GRANTED,
        EventType.ACCESS_REVOKED,
        EventType.REPOSITORY_CHANGED,
        EventType.HOST_REVOKED,
        EventType.IDENTITY_ERASED,  # ends tokens
        EventType.LOG_RECOVERED,
    }
)


def is_decisive(type_: str, detail: dict[str, Any]) -> bool:
    """Whether an event can change a decision: `DECISIVE` ones, and a publication that says what something was made of.

    That may be an artifact that others were made of: they have further ancestors then.
    """
    return type_ in DECISIVE or bool(detail.get("parents"))


def hold(session: Session) -> None:
    """Take the log's lock until the caller's transaction ends; every other appender waits.

    Raises:
        RecordUnavailable: the database was never migrated.
    """
    custody_tree.hold(session)


def epoch(session: Session) -> int:
    """Index of the newest event that can change a decision.

    Read before what a decision rests on, and the same under the log's lock: then the decision still holds.

    Raises:
        RecordUnavailable: the database was never migrated.
    """
    return custody_tree.epoch(session)


def append(session: Session, actor: Actor, event: Event, now: datetime) -> int:
    """Append an event inside the caller's transaction and return its index; durable when that transaction commits.

    Call it late: from here to the commit every other appender waits.

    Raises:
        TooLarge: the entry would exceed 8 KiB.
        RecordUnavailable: the database was never migrated.
    """
    hold(session)
    known = actor.host
    who = {
        "principal": actor.principal,
        "token": actor.token_id,
        "identity": actor.identity,
        "client_address": actor.client_address,
        "user_agent": actor.user_agent[:MAX_TEXT_CHARS] if actor.user_agent else None,
    }
    by = custody_identities.commit(session, actor.principal, who)
    # With the name in it: what is said alike to two people is two openings, and each goes with its own.
    said = {"about": event.about, **event.personal}
    about = custody_identities.commit(session, event.about or "", said) if event.personal else None
    entry = canonical_json(
        {
            "v": 2,
            "type": event.type.value,
            "time": now.isoformat(timespec="microseconds"),
            "actor": by,
            "about": about,
            "repository": event.repository,
            "artifact": event.artifact,
            "tag": event.tag,
            "host": event.host,
            "verified_host": (
                {"name": known.name, "class": known.host_class.value, "zone": known.zone} if known else None
            ),
            "purpose": event.purpose,
            "detail": event.detail,
        }
    )
    if len(entry) > MAX_ENTRY_BYTES:
        raise TooLarge(f"a custody event of {len(entry)} bytes; the limit is {MAX_ENTRY_BYTES}", limit=MAX_ENTRY_BYTES)
    index = custody_tree.grow(session, entry, now, decisive=is_decisive(event.type, event.detail))
    custody_tree.insert_late(
        session,
        CustodyEvent,
        index=index,
        type=event.type.value,
        recorded_at=now,
        principal=custody_identities.pseudonym(by),
        repository=event.repository,
        artifact=event.artifact,
        tag=event.tag,
        host=event.host,
        purpose=event.purpose,
        detail=event.detail,
        entry=entry,
        verified_host=known.name if known else None,
        verified_host_class=known.host_class.value if known else None,
        verified_host_zone=known.zone if known else None,
        actor=by,
        about=about,
    )
    return index


def events(
    session: Session,
    *,
    repository: str | None = None,
    artifact: str | None = None,
    tag: str | None = None,
    types: Sequence[str] = (),
    after: int = -1,
    newest: bool = False,
    limit: int = 100,
) -> list[CustodyEvent]:
    """Events in index order after `after`, filtered; with `newest`, the last `limit` of them instead of the first."""
    query = select(CustodyEvent).where(col(CustodyEvent.index) > after)
    for column, value in (
        (CustodyEvent.repository, repository),
        (CustodyEvent.artifact, artifact),
        (CustodyEvent.tag, tag),
    ):
        if value is not None:
            query = query.where(col(column) == value)
    if types:
        query = query.where(col(CustodyEvent.type).in_(types))
    order = col(CustodyEvent.index).desc() if newest else col(CustodyEvent.index)
    found = list(session.exec(query.order_by(order).limit(limit)))
    return found[::-1] if newest else found
