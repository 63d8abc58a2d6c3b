"""Taking artifacts back: quarantine until it is lifted, revocation for good. Both hold in every repository.

A recall takes `quarantine` (or `admin`) on *every* repository that holds the artifact. Whoever has it on one could
otherwise stop another team's production by publishing its artifact once more and recalling it there. Whoever may recall
in one place only hears that the artifact is elsewhere too, never where.

Row and events are one transaction, under the log's lock, and grants decide under the same lock: of a grant and a recall
at once either the grant is the older entry of the log, or it is refused. Every repository that holds the artifact gets an
event of its own, so that its auditors see it.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from modelreg.errors import Conflict, ModelregError, NotFound, Quarantined, Revoked, TooLarge
from modelreg_server import custody
from modelreg_server.callers import Caller, denied
from modelreg_server.custody import Event, EventType
from modelreg_server.database import Database
from modelreg_server.identity import EVERYWHERE, Principal, Verb
from modelreg_server.tables import Derivation, Publication, Recall, Repository

QUARANTINE, REVOCATION = "quarantine", "revocation"
MAX_CASCADE = 1000  # artifacts that one request recalls
_MAX_EVENTS = 5000  # of one request: every appender waits for them
_BATCH = 500  # bound parameters in one statement
# Columns, and a statement made once: it is asked for every grant.
_OPEN: Select[*tuple[Any, ...]] = columns(
    col(Recall.id), col(Recall.kind), col(Recall.reason), col(Recall.created_at)
).where(col(Recall.artifact_digest) == bindparam("artifact"), col(Recall.lifted_at).is_(None))
_EVENTS = {QUARANTINE: EventType.ARTIFACT_QUARANTINED, REVOCATION: EventType.ARTIFACT_REVOKED}


@dataclass(frozen=True)
class Reached:
    """An artifact that a recall reaches. `depth` is 0 for the one that was named; `grade` says how the edge is known."""

    artifact: str
    parent: str | None
    relation: str | None
    grade: str | None
    depth: int


@dataclass(frozen=True)
class Outcome:
    """What a recall did, or would do, to one artifact. `row` is its open recall, if there is one (or will be)."""

    reached: Reached
    repositories: list[str]
    row: Recall | None
    changed: bool
    allowed: bool


def refusal(session: Session, artifact: str) -> ModelregError | None:
    """Why the registry does not serve an artifact, or None.

    For a decision that is recorded, call it with the log's lock held (`custody.hold`).
    """
    row = session.connection().execute(_OPEN, {"artifact": artifact}).one_or_none()
    if row is None:
        return None
    facts = {"artifact": artifact, "recall": row.id, "reason": row.reason}
    since = f"{row.created_at:%Y-%m-%d %H:%M}Z"
    if row.kind == REVOCATION:
        return Revoked(f"the artifact {artifact} is revoked since {since}: {row.reason}", **facts)
    return Quarantined(
        f"the artifact {artifact} is quarantined since {since}: {row.reason}; it may be released later", **facts
    )


def open_recall(session: Session, artifact: str) -> Recall | None:
    """The recall that holds now; there is one at most."""
    query = select(Recall).where(Recall.artifact_digest == artifact, col(Recall.lifted_at).is_(None))
    return session.exec(query).one_or_none()


def recall(
    database: Database,
    caller: Caller,
    repository: str,
    artifact: str,
    *,
    kind: str,
    reason: str,
    cascade: bool = False,
) -> list[Outcome]:
    """Quarantine or revoke an artifact, with `cascade` all that was made from it too; all of them or none.

    What is recalled like that already stays as it is: doing it again is no event. A revocation ends a quarantine.

    Raises:
        NotFound: the repository does not hold the artifact.
        NotPermitted: the verb is missing on a repository that holds one of the artifacts.
        Conflict: a quarantine of what is revoked.
        TooLarge: more descendants, or more events, than one request may cause.
    """
    with database.writing() as session, session.begin():
        _require_held(session, repository, artifact)
        custody.hold(session)
        found = _reach(session, artifact, cascade=cascade)
        holders = _holders(session, [item.artifact for item in found])
        _require_on_all(caller, repository, found, holders)
        if sum(max(1, len(holders.get(item.artifact, ()))) for item in found) > _MAX_EVENTS:
            raise TooLarge(f"this recall would be more than {_MAX_EVENTS} events; recall in parts", limit=_MAX_EVENTS)
        outcomes = []
        for item in found:
            row = open_recall(session, item.artifact)
            if row is not None and row.kind == REVOCATION and kind == QUARANTINE and item.depth == 0:
                raise Conflict(f"{artifact} is revoked already, which is final", recall=row.id)
            changed = row is None or (row.kind == QUARANTINE and kind == REVOCATION)
            if changed:
                row = _record(session, caller, item, holders.get(item.artifact, []), row, kind, reason)
            outcomes.append(Outcome(item, holders.get(item.artifact, []), row, changed, allowed=True))
        session.flush()
        session.expunge_all()
    return outcomes


def preview(
    session: Session, caller: Caller, repository: str, artifact: str, *, kind: str, cascade: bool
) -> list[Outcome]:
    """What `recall` would do; nothing changes.

    What lies only in repositories that the caller may not see has no digest here, and `allowed` is false.

    Raises:
        NotFound: the repository does not hold the artifact.
        TooLarge: more descendants than one request may recall.
    """
    _require_held(session, repository, artifact)
    found = _reach(session, artifact, cascade=cascade)
    holders = _holders(session, [item.artifact for item in found])
    outcomes = []
    for item in found:
        held = holders.get(item.artifact, [])
        seen = [name for name in held if _may_see(caller.principal, name)]
        row = open_recall(session, item.artifact)
        changed = row is None or (row.kind == QUARANTINE and kind == REVOCATION)
        allowed = all(_may_recall(caller.principal, name) for name in held)
        if held and not seen:
            outcomes.append(Outcome(Reached("", None, None, None, item.depth), [], None, changed, allowed=False))
        else:
            outcomes.append(Outcome(item, seen, row, changed, allowed))
    session.expunge_all()
    return outcomes


def release(database: Database, caller: Caller, repository: str, artifact: str, *, reason: str) -> tuple[Recall, bool]:
    """Lift a quarantine; returns its row and whether this did it. Doing it again is no event.

    Raises:
        NotFound: the repository does not hold the artifact.
        NotPermitted: as in `recall`.
        Conflict: it is revoked, or was never quarantined.
    """
    with database.writing() as session, session.begin():
        _require_held(session, repository, artifact)
        custody.hold(session)
        holders = _holders(session, [artifact])
        _require_on_all(caller, repository, [Reached(artifact, None, None, None, 0)], holders)
        row = open_recall(session, artifact)
        if row is not None and row.kind == REVOCATION:
            raise Conflict(f"{artifact} is revoked, and a revocation is final; publish another artifact", recall=row.id)
        changed = row is not None
        if row is None:
            row = _last(session, artifact)
        else:
            detail = {"recall": row.id, "reason": reason}
            _lift(row, caller, _append(session, caller, EventType.ARTIFACT_RELEASED, artifact, holders, detail))
            session.add(row)
        if row is None:
            raise Conflict(f"{artifact} is not quarantined")
        session.flush()
        session.expunge_all()
    return row, changed


def open_recalls(session: Session, caller: Caller, after: int, limit: int) -> tuple[list[Recall], int | None]:
    """Open recalls of artifacts in repositories that the caller may see, in the order of the log, after an event.

    Also answers where to go on; None at the end. Recalls of what no repository holds are for who may audit everything.
    """
    found: list[Recall] = []
    everything = caller.principal.may_everywhere(Verb.AUDIT) or caller.principal.may_everywhere(Verb.ADMIN)
    while True:
        query = (
            select(Recall)
            .where(col(Recall.lifted_at).is_(None), col(Recall.event_index) > after)
            .order_by(col(Recall.event_index))
            .limit(_BATCH)
        )
        rows = session.exec(query).all()
        holders = _holders(session, [row.artifact_digest for row in rows])
        for row in rows:
            after = row.event_index
            if everything or any(_may_see(caller.principal, name) for name in holders.get(row.artifact_digest, ())):
                found.append(row)
                if len(found) == limit:
                    return found, after
        if len(rows) < _BATCH:
            return found, None


def recalled_among(session: Session, artifacts: Sequence[str]) -> list[Recall]:
    """The open recalls of these artifacts. For anybody: who names a digest learns that it is recalled, nothing else."""
    query = select(Recall).where(col(Recall.artifact_digest).in_(artifacts), col(Recall.lifted_at).is_(None))
    return list(session.exec(query.order_by(col(Recall.event_index))))


def require_on_every_holder(session: Session, caller: Caller, row: Recall) -> None:
    """Go on only if the caller may audit or recall in every repository that holds the artifact.

    Raises:
        NotFound: it may not; as if there were no such recall.
    """
    names = _holders(session, [row.artifact_digest]).get(row.artifact_digest, [EVERYWHERE])
    if not all(_may_recall(caller.principal, name) or caller.principal.may(Verb.AUDIT, name) for name in names):
        raise no_recall(row.id)


def may_see(session: Session, caller: Caller, artifact: str) -> bool:
    """Whether the caller may see some repository that holds the artifact."""
    names = _holders(session, [artifact]).get(artifact, ())
    return any(_may_see(caller.principal, name) for name in names)


def no_recall(recall_id: str) -> NotFound:
    """One sentence for an absent recall and a hidden one."""
    return NotFound(f"there is no recall {recall_id[:40]}, or you may not see it")


def _reach(session: Session, artifact: str, *, cascade: bool) -> list[Reached]:
    """The artifact and, with `cascade`, every descendant once, nearest first; a circle of derivations ends."""
    found = {artifact: Reached(artifact, None, None, None, 0)}
    level = [artifact] if cascade else []
    depth = 0
    while level:
        depth += 1
        below: list[str] = []
        for start in range(0, len(level), _BATCH):
            query = select(Derivation).where(col(Derivation.parent).in_(level[start : start + _BATCH]))
            for edge in session.exec(query.order_by(col(Derivation.event_index), col(Derivation.child))):
                if edge.child in found:
                    continue
                found[edge.child] = Reached(edge.child, edge.parent, edge.relation, edge.grade, depth)
                below.append(edge.child)
                if len(found) > MAX_CASCADE:
                    raise TooLarge(
                        f"more than {MAX_CASCADE} artifacts were made from {artifact}; recall it without --cascade, "
                        "and its children one by one",
                        limit=MAX_CASCADE,
                    )
        level = below
    return list(found.values())


def _holders(session: Session, artifacts: Sequence[str]) -> dict[str, list[str]]:
    """The repositories that hold each artifact, by name; an artifact that is nowhere is left out."""
    found: dict[str, list[str]] = {}
    for start in range(0, len(artifacts), _BATCH):
        query = (
            select(Publication.artifact_digest, Repository.name)
            .join(Repository, col(Repository.id) == col(Publication.repository_id))
            .where(col(Publication.artifact_digest).in_(artifacts[start : start + _BATCH]))
            .order_by(col(Repository.name))
        )
        for artifact, name in session.exec(query):
            found.setdefault(artifact, []).append(name)
    return found


def _require_held(session: Session, repository: str, artifact: str) -> None:
    if repository not in _holders(session, [artifact]).get(artifact, ()):
        raise NotFound(f"{repository} has no artifact {artifact}")


def _require_on_all(caller: Caller, repository: str, found: Iterable[Reached], holders: dict[str, list[str]]) -> None:
    for item in found:
        for name in holders.get(item.artifact, ()):
            if _may_recall(caller.principal, name):
                continue
            # Named only to whoever may see it; the denial in the record is about the repository that was asked about.
            shown = name if _may_see(caller.principal, name) else "a repository that you may not see"
            what = "it" if item.depth == 0 else f"what was made from it ({item.relation})"
            raise denied(
                caller.principal,
                Verb.QUARANTINE,
                repository,
                detail=f"{what} is also in {shown}, and a recall holds everywhere: ask somebody who may quarantine in "
                "every repository that holds it, or an administrator",
            )


def _may_recall(principal: Principal, repository: str) -> bool:
    return principal.may(Verb.QUARANTINE, repository) or principal.may(Verb.ADMIN, repository)


def _may_see(principal: Principal, repository: str) -> bool:
    verbs = (Verb.READ_METADATA, Verb.AUDIT, Verb.QUARANTINE, Verb.ADMIN)
    return any(principal.may(verb, repository) for verb in verbs)


def _record(
    session: Session,
    caller: Caller,
    item: Reached,
    repositories: list[str],
    quarantine: Recall | None,
    kind: str,
    reason: str,
) -> Recall:
    recall_id = str(uuid.uuid4())
    detail: dict[str, Any] = {"recall": recall_id, "reason": reason}
    if item.parent is not None:
        detail |= {"parent": item.parent, "relation": item.relation, "grade": item.grade}
    holders = {item.artifact: repositories}
    index = _append(session, caller, _EVENTS[kind], item.artifact, holders, detail)
    if quarantine is not None:
        _lift(quarantine, caller, index)
        session.add(quarantine)
        session.flush()  # before the new row: one open recall an artifact
    row = Recall(
        id=recall_id,
        artifact_digest=item.artifact,
        kind=kind,
        reason=reason,
        created_at=caller.now,
        created_by=caller.principal.name,
        event_index=index,
    )
    session.add(row)
    return row


def _append(
    session: Session,
    caller: Caller,
    event_type: EventType,
    artifact: str,
    holders: dict[str, list[str]],
    detail: dict[str, Any],
) -> int:
    """One event a repository that holds the artifact; returns the first one's index."""
    names: Sequence[str | None] = holders.get(artifact) or [None]
    indexes = []
    for name in names:
        event = Event(event_type, repository=name, artifact=artifact, detail=detail)
        indexes.append(custody.append(session, caller.actor, event, caller.now))
    return min(indexes)


def _lift(row: Recall, caller: Caller, index: int) -> None:
    row.lifted_at, row.lifted_by, row.lifted_event_index = caller.now, caller.principal.name, index


def _last(session: Session, artifact: str) -> Recall | None:
    query = select(Recall).where(Recall.artifact_digest == artifact).order_by(col(Recall.event_index).desc())
    return session.exec(query.limit(1)).one_or_none()
