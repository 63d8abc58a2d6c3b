"""Bringing a rolled back database forward: the published entries become events again, proved against a signed checkpoint.

What is restored is the record: events, tree, head, and who stands in them as far as it was not erased. Rows that other
tables held (tokens, tags, grants …) are not made again from events; `Recovered.spoken_of` names what to look at.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlmodel import Session

from modelreg import checkpoints, merkle, tiles
from modelreg.checkpoints import Checkpoint
from modelreg.errors import LogForked, LogNotIntact, RecordUnavailable
from modelreg.tiles import WIDTH, Tile
from modelreg_server import (
    custody,
    custody_identities,
    custody_tree,
    log_checking,
    log_copies,
    log_entries,
    log_erasing,
    log_verifying,
)
from modelreg_server.custody import Actor, CustodyEvent, Event, EventType, is_decisive
from modelreg_server.custody_identities import CustodyIdentity
from modelreg_server.custody_tree import CustodyHead, CustodyNode
from modelreg_server.database import Database, insert_if_absent
from modelreg_server.log_copies import Copies
from modelreg_server.tables import table_of

MAX_NAMES = 1000  # of one kind in the list for people
_ACTOR = Actor("server:log-recover", None)


@dataclass
class Recovered:
    """Events `start` to `stop` were restored; `spoken_of` lists, by event type, what they speak of."""

    start: int
    stop: int
    openings: int = 0
    erased: int = 0
    spoken_of: Mapping[str, list[str]] = field(default_factory=dict)


def recover(database: Database, copies: Copies, now: datetime) -> Recovered:
    """Replay what was published beyond the database's head, in one transaction, and append `log.recovered`.

    Doing it again finds nothing to do. Nothing is written unless every entry leads to the root that our key signed.

    Raises:
        LogForked: the database's own log is not the beginning of the published one.
        LogNotIntact: published entries are missing or altered.
        RecordUnavailable: nothing was published that the database does not have, and yet it is not intact.
    """
    with database.writing() as session, session.begin():
        growth = custody_tree.hold(session)
        size = growth.tree.size
        published = copies.newest(above=size)
        if published is None or published.size <= size:
            return Recovered(size, size)
        _require_beginning(session, size, copies, published)
        result = Recovered(size, published.size)
        _replay(session, copies, published, result)
        if EventType.IDENTITY_ERASED.value in result.spoken_of:
            result.erased = _erase_again(session, copies, size, now)
        custody_tree.look_again(session)
        detail = {"from": size, "to": published.size, "openings": result.openings}
        custody.append(session, _ACTOR, Event(EventType.LOG_RECOVERED, detail=detail), now)
    log_checking.require_appendable(database, copies, now)
    return result


def _require_beginning(session: Session, size: int, copies: Copies, published: Checkpoint) -> None:
    """The database's log is the beginning of the published one, and the published tiles make its root."""
    theirs = tiles.reader(published.size, copies.read_tile)
    if merkle.root(published.size, theirs) != published.root:
        raise LogNotIntact(
            f"the published tiles do not make the root that was signed for {published.size} events; restore the bucket, "
            "or recover from a mirror of it"
        )
    ours = custody_tree.reader(session)
    if merkle.peaks(0, size) and ours(merkle.peaks(0, size)) != theirs(merkle.peaks(0, size)):
        index = log_verifying.first_difference(size, ours, theirs)
        raise LogForked(
            f"this database's log and the published one part at event {index}: it cannot be brought forward; restore "
            "another backup, or an empty database, and recover that"
        )


def _replay(session: Session, copies: Copies, published: Checkpoint, result: Recovered) -> None:
    connection = session.connection()
    head = connection.execute(table_of(CustodyHead).select()).one()
    tree = merkle.growing_from(head.size, head.frontier)
    epoch, appended_at = head.epoch, head.appended_at
    spoken_of: dict[str, list[str]] = defaultdict(list)
    for entries in _published_entries(copies, tree.size, published.size):
        rows = []
        for entry in entries:
            row = log_entries.row_of(tree.size, entry)
            tree.append(merkle.leaf_hash(entry))
            rows.append(row)
            if is_decisive(row["type"], row["detail"]):
                epoch = row["index"]
            appended_at = max(appended_at or row["recorded_at"], row["recorded_at"])
            names = spoken_of[row["type"]]
            if len(names) < MAX_NAMES and (name := _name(row)) not in names[-50:]:
                names.append(name)
        connection.execute(insert(CustodyEvent), rows)
        nodes = [{"level": level, "index": index, "hash": value} for level, index, value in tree.finished]
        connection.execute(insert(CustodyNode), nodes)
        tree.finished.clear()
        result.openings += _restore_openings(session, copies, rows)
    if (tree.size, tree.root()) != (published.size, published.root):
        raise LogNotIntact("the published entries do not make the root that was signed; restore the bucket")
    connection.execute(
        update(CustodyHead).values(
            size=tree.size,
            frontier=b"".join(tree.frontier),
            checkpoint=checkpoints.sign(copies.signer.origin, tree.size, tree.root(), copies.signer.key),
            epoch=epoch,
            appended_at=appended_at,
        )
    )
    result.spoken_of = dict(spoken_of)


def _published_entries(copies: Copies, start: int, stop: int) -> Iterator[list[bytes]]:
    """Entries from `start` on, bundle by bundle, from what was published of a log of `stop` entries."""
    for at in range(start // WIDTH, -(-stop // WIDTH)):
        bundle = Tile(None, at, min(WIDTH, stop - at * WIDTH))
        entries = tiles.split_entries(copies.read_tile(bundle), bundle.width)
        yield entries[max(0, start - bundle.start) :]


def _restore_openings(session: Session, copies: Copies, rows: list[dict[str, Any]]) -> int:
    named = {name for row in rows for name in (row["actor"], row["about"]) if name is not None}
    bundle = rows[0]["index"] // WIDTH
    found = [
        CustodyIdentity(
            commitment=opening["commitment"],
            plain_sha256=custody_identities.plain_sha256_of(opening["body"]),
            salt=opening["salt"],
            principal=opening["principal"],
            body=opening["body"],
        )
        for opening in log_copies.read_openings(copies, bundle).rows
        if opening["commitment"] in named
    ]
    return insert_if_absent(session, found)


def _erase_again(session: Session, copies: Copies, size: int, now: datetime) -> int:
    """Forget whom the backup remembers and the published openings, which are newer, do not; returns how many."""
    event = table_of(CustodyEvent)
    principals: set[str] = set()
    for at in range(-(-size // WIDTH)):
        published = log_copies.read_openings(copies, at)
        stop = min(size, at * WIDTH + published.entries)
        query = select(event.c.actor, event.c.about).where(event.c.index >= at * WIDTH, event.c.index < stop)
        named = {name for row in session.connection().execute(query) for name in row}
        gone = named - {row["commitment"] for row in published.rows}
        principals |= {row.principal for row in custody_identities.opened(session, gone).values()}
    for principal in sorted(principals):
        log_erasing.forget(session, principal, now)
    return len(principals)


def _name(row: Mapping[str, Any]) -> str:
    """What an event speaks of, for people."""
    place = row["repository"] or ""
    place += f":{row['tag']}" if row["tag"] else ""
    place += f"@{row['artifact']}" if row["artifact"] else ""
    if place:
        return place
    words = [str(value) for value in row["detail"].values() if isinstance(value, str | int)][:3]
    return " ".join(words)[:200] or f"event {row['index']}"


def require_something(recovered: Recovered) -> None:
    """Say so where nothing was published beyond the head.

    Raises:
        RecordUnavailable: there is nothing to recover from.
    """
    if recovered.start == recovered.stop:
        raise RecordUnavailable(
            f"nothing was published beyond this database's {recovered.start} events; `modelreg-server log verify` says "
            "whether they are intact"
        )
