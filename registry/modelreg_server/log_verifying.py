"""Recomputing the whole log from the database: every entry, column, hash, node, the head and its signature.

Nothing in the database is believed but what leads to the signed root, and what was published. A finding names the first
index that is wrong. Entries are read in segments that know nothing of each other, so that several processes can share them.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select
from sqlmodel import Session

from modelreg import checkpoints, log_audit, merkle, notes, tiles
from modelreg.checkpoints import Checkpoint
from modelreg.errors import LogNotIntact, ModelregError
from modelreg.trust import LogTrust
from modelreg_server import custody_tree, database, log_entries
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_tree import CustodyHead, CustodyNode
from modelreg_server.log_copies import Copies
from modelreg_server.log_references import reference_findings
from modelreg_server.tables import table_of

SEGMENT_LEVEL = 14
SEGMENT = 1 << SEGMENT_LEVEL
_ROWS = 1024  # read at once
_JSON_COLUMNS = ("detail", "identity")
_PLAIN_COLUMNS = tuple(name for name in log_entries.COLUMNS if name not in _JSON_COLUMNS)
_ORDER = (*_PLAIN_COLUMNS, *_JSON_COLUMNS)
_UNREADABLE = (ValueError, TypeError, AttributeError)  # what a text, say, in a column of times makes of reading it


@dataclass(frozen=True)
class Finding:
    """What is wrong. `index` is the first entry it concerns; None where only the whole can be said to be wrong.

    `span` entries from there on are under suspicion together.
    """

    index: int | None
    what: str
    span: int = 1


@dataclass(frozen=True)
class Segment:
    """What was found in a segment: its frontier, and the first thing that is wrong in it."""

    frontier: tuple[bytes, ...]
    finding: Finding | None


@dataclass(frozen=True)
class Report:
    """The log as it was found; intact without findings, which are in the order of their indexes."""

    size: int
    root: bytes | None
    signed: bool
    published_size: int | None
    findings: tuple[Finding, ...]


Segments = Callable[[Connection, Sequence[tuple[int, int]]], Iterator[Segment]]


def verify(connection: Connection, copies: Copies, segments: Segments | None = None) -> Report:
    """Verify the log in the database behind a connection against itself, its key, and its published copies.

    `segments` shares the work between processes; without it this one does all. Memory does not grow with the log. The
    connection's transaction should see one state of the database; what is appended meanwhile is not looked at.
    """
    newest = copies.newest()  # before the head: what is published meanwhile is not looked at either
    published = newest.size if newest else None
    head, counted = _head(connection)
    if head is None:
        return Report(0, None, signed=False, published_size=None, findings=(Finding(None, "the log has no head"),))
    size = head.size
    ranges = [(start, min(start + SEGMENT, size)) for start in range(0, size, SEGMENT)]
    found = list((segments or _one_after_the_other)(connection, ranges))
    findings = [segment.finding for segment in found if segment.finding]
    tree = merkle.Growing(0, [])
    if not findings:
        tree, upper = _above(connection, [segment.frontier for segment in found], size)
        findings += upper
    findings += _extra(connection, size, counted)
    if not findings:
        findings += _head_findings(head, tree, copies) or _unsigned(connection, head)
    with Session(connection) as session:
        compared = _compare(session, size, copies, newest) if newest else []
        findings = [_placed(session, it, size, copies, newest) if it.span > 1 and newest else it for it in findings]
        references = [Finding(index, what) for index, what in reference_findings(session)]
    findings += compared
    if published is not None and not compared:
        # What was published is there, so what is wrong and cannot be placed comes after it.
        findings = [Finding(published, it.what) if it.index is None and published < size else it for it in findings]
    ordered = sorted([*findings, *references], key=lambda it: (it.index is None, it.index or 0))
    root = tree.root() if not ordered else None
    return Report(size, root, head.checkpoint is not None, published, tuple(ordered))


def verify_segment(connection: Connection, start: int, stop: int) -> Segment:
    """Verify the entries of an aligned segment, and the nodes that cover nothing else."""
    return verify_rows(_rows(connection, start, stop), start, stop, _stored(connection, start, stop))


def _rows(connection: Connection, start: int, stop: int) -> Iterator[Sequence[Any]]:
    """Rows in order of their index; one that cannot even be read is its index alone."""
    event = table_of(CustodyEvent)
    query = select(*(event.c[name] for name in _ORDER)).order_by(event.c.index)
    for first in range(start, stop, _ROWS):
        some = query.where(event.c.index >= first, event.c.index < min(first + _ROWS, stop))
        try:
            found = connection.execute(some).all()
        except _UNREADABLE:
            yield from _one_by_one(connection, query, first, min(first + _ROWS, stop))
        else:
            yield from found


def _one_by_one(connection: Connection, query: Any, start: int, stop: int) -> Iterator[Sequence[Any]]:
    event = table_of(CustodyEvent)
    for index in range(start, stop):
        try:
            yield from connection.execute(query.where(event.c.index == index)).all()
        except _UNREADABLE:
            yield (index,)


def verify_rows(
    rows: Iterable[Sequence[Any]], start: int, stop: int, stored: Callable[[int, int], bytes | None]
) -> Segment:
    """Verify rows of the event table (columns in the order of `_ORDER`) as the entries `start` to `stop`.

    `stored` gives the stored node of a level and index. Stops at the first thing that is wrong.
    """
    tree = merkle.Growing(0, [])
    expected = start
    for row in rows:
        index = row[0]
        if index != expected or expected >= stop:
            what = "an event stands there twice" if index == expected - 1 else f"event {expected} is missing"
            return Segment((), Finding(min(expected, index), what))
        if (what_is_wrong := _wrong_in_row(row)) is not None:
            return Segment((), Finding(index, what_is_wrong))
        tree.append(merkle.leaf_hash(row[_ENTRY]))
        for level, at, value in tree.finished:
            if stored(level, at + (start >> level)) != value:
                what = (
                    "the entry is not the one that was appended"
                    if level == 0
                    else f"the node at level {level} above it is not that of the entries"
                )
                return Segment((), Finding((at << level) + start, what, 1 << level))
        tree.finished.clear()
        expected += 1
    if expected < stop:
        return Segment((), Finding(expected, f"event {expected} is missing"))
    return Segment(tuple(tree.frontier), None)


_ENTRY = _ORDER.index("entry")


def _wrong_in_row(row: Sequence[Any]) -> str | None:
    if len(row) == 1 or not isinstance(row[_ENTRY], bytes):
        return "a column holds what is not of its type"  # SQLite lets it
    try:
        expected = log_entries.row_of(row[0], row[_ENTRY])
    except LogNotIntact as error:
        return error.detail
    count = len(_PLAIN_COLUMNS)
    same = tuple(row[:count]) == tuple(map(expected.__getitem__, _PLAIN_COLUMNS))
    if same and _same_json(row[count], expected["detail"]) and _same_json(row[count + 1], expected["identity"]):
        return None
    for name, value in zip(_ORDER, row, strict=True):
        if not (_same_json(value, expected[name]) if name in _JSON_COLUMNS else value == expected[name]):
            return f"the column {name} says something else than the entry"
    raise AssertionError


def _same_json(one: Any, other: Any) -> bool:
    """Equal as texts: for Python 1, 1.0 and true are the same."""
    if one is None or other is None:
        return one is other
    return log_entries.encode(one) == log_entries.encode(other)


def _stored(connection: Connection, start: int, stop: int) -> Callable[[int, int], bytes | None]:
    node = table_of(CustodyNode)
    levels: list[dict[int, bytes]] = []
    for level in range((stop - start).bit_length()):
        query = select(node.c.index, node.c.hash).where(
            node.c.level == level, node.c.index >= start >> level, node.c.index < stop >> level
        )
        levels.append({row[0]: row[1] for row in connection.execute(query)})
    return lambda level, index: levels[level].get(index)


def _one_after_the_other(connection: Connection, ranges: Sequence[tuple[int, int]]) -> Iterator[Segment]:
    for start, stop in ranges:
        yield verify_segment(connection, start, stop)


def shared_by(executor: Executor, url: str) -> Segments:
    """Segments in the processes of an executor, each with a connection of its own."""

    def segments(_connection: Connection, ranges: Sequence[tuple[int, int]]) -> Iterator[Segment]:
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        return executor.map(_segment_of, itertools.repeat(url), starts, stops)

    return segments


def _segment_of(url: str, start: int, stop: int) -> Segment:
    if url not in _opened:
        _opened[url] = database.connect(url, 1)
    with _opened[url].reading() as session:
        return verify_segment(session.connection(), start, stop)


_opened: dict[str, database.Database] = {}  # of a worker process, which ends with its executor


def _head(connection: Connection) -> tuple[Any, tuple[int, int | None, int | None]]:
    """The head, and how many events there are with which smallest and largest index, in one statement: one snapshot."""
    head, event = table_of(CustodyHead), table_of(CustodyEvent)
    counted = [
        select(column).scalar_subquery()
        for column in (func.count(event.c.index), func.min(event.c.index), func.max(event.c.index))
    ]
    row = connection.execute(select(head, *counted)).one_or_none()
    return (row, (0, None, None)) if row is None else (row, (row[-3], row[-2], row[-1]))


def _above(
    connection: Connection, frontiers: Sequence[tuple[bytes, ...]], size: int
) -> tuple[merkle.Growing, list[Finding]]:
    """Put the segments' roots together, holding the nodes above them against the stored ones."""
    node = table_of(CustodyNode)
    query = select(node.c.level, node.c.index, node.c.hash).where(node.c.level > SEGMENT_LEVEL)
    stored = {(level, index): value for level, index, value in connection.execute(query)}
    upper = merkle.Growing(0, [])
    findings = []
    full = size >> SEGMENT_LEVEL
    for frontier in frontiers[:full]:
        upper.append(frontier[0])
    for level, index, value in upper.finished:
        if level and stored.get((level + SEGMENT_LEVEL, index)) != value:
            first = index << (level + SEGMENT_LEVEL)
            what = f"the node at level {level + SEGMENT_LEVEL} is not that of the entries"
            findings.append(Finding(first, what, 1 << (level + SEGMENT_LEVEL)))
    rest = list(frontiers[full]) if len(frontiers) > full else []
    return merkle.Growing(size, upper.frontier + rest), findings


def _extra(connection: Connection, size: int, counted: tuple[int, int | None, int | None]) -> list[Finding]:
    """Rows that no entry below the head accounts for."""
    findings = []
    count, smallest, largest = counted
    if largest is not None and largest >= size:
        findings.append(Finding(size, f"there are events up to index {largest} behind the head of {size}"))
    elif smallest is not None and smallest < 0:
        findings.append(Finding(smallest, "there is an event before the first one"))
    elif count != size:
        findings.append(Finding(None, f"the head counts {size} events, and there are {count}"))
    node = table_of(CustodyNode)
    query = select(node.c.level, func.count(), func.max(node.c.index), func.min(node.c.index)).group_by(node.c.level)
    for level, nodes, last, first in connection.execute(query):
        if not 0 <= level < 63 or nodes != size >> level or last >= size >> level or first < 0:
            index = min(size, (size >> level) << level) if 0 <= level < 63 else size
            findings.append(Finding(index, f"level {level} of the tree has nodes that no entry accounts for"))
    return findings


def _head_findings(head: Any, tree: merkle.Growing, copies: Copies) -> list[Finding]:
    if b"".join(tree.frontier) != head.frontier:
        return [Finding(None, "the head's frontier is not that of the entries")]
    if head.checkpoint is None:
        return [] if head.appended_at is None else [Finding(None, "the head is not signed")]
    try:
        signed = checkpoints.parse(head.checkpoint)
        keys = notes.verified_by(notes.parse(head.checkpoint), [copies.key])
    except ModelregError as error:
        return [Finding(None, f"the head's checkpoint: {error.detail}")]
    except _UNREADABLE:
        return [Finding(None, "the head's checkpoint cannot be read")]
    if not keys or signed.origin != copies.signer.origin:
        return [Finding(None, "the head's checkpoint is not signed with this log's key")]
    if signed.size != head.size:
        return [Finding(min(signed.size, head.size), f"the head has {head.size} entries, its checkpoint {signed.size}")]
    if signed.root != tree.root():
        return [Finding(None, "the entries do not make the root that was signed")]
    return []


def _unsigned(connection: Connection, head: Any) -> list[Finding]:
    """Only events of before the tree were appended without a signature."""
    event = table_of(CustodyEvent)
    query = select(event.c.index).where(event.c.actor.is_not(None)).limit(1)
    if head.checkpoint is not None or connection.execute(query).first() is None:
        return []
    return [Finding(None, "the head is not signed")]


def _compare(session: Session, size: int, copies: Copies, published: Checkpoint) -> list[Finding]:
    """Hold the stored nodes against the newest checkpoint that was published; where they differ, find where."""
    common = min(size, published.size)
    ours = custody_tree.reader(session)
    theirs = tiles.reader(published.size, copies.read_tile)
    try:
        if merkle.root(common, ours) == published.root and common == published.size:
            return []
        if merkle.root(published.size, theirs) != published.root:
            return [Finding(None, "the published tiles do not make the published root")]
        index = first_difference(common, ours, theirs)
    except LogNotIntact as error:
        return [Finding(None, f"the log differs from the published one: {error.detail}")]
    if index is not None:
        return [Finding(index, f"another entry was published, in the log of {published.size} entries")]
    return [Finding(size, f"a log of {published.size} entries was published, and {size} are here: it was rolled back")]


def copies_findings(copies: Copies) -> list[Finding]:
    """Read every published tile and entry, as an auditor does who has nothing else."""
    published = copies.newest()
    if published is None:
        return []
    trusted = LogTrust(copies.signer.origin, (copies.key,))
    try:
        log_audit.audit(published.note, copies.read_tile, trusted)
    except LogNotIntact as error:
        return [Finding(error.facts.get("index"), f"the published copy: {error.detail}")]
    return []


def _placed(session: Session, finding: Finding, size: int, copies: Copies, published: Checkpoint) -> Finding:
    """Name the entry under a node that is wrong: the first one whose published leaf, proved, is another."""
    if finding.index is None:
        return finding
    ours, theirs = custody_tree.reader(session), tiles.reader(published.size, copies.read_tile)
    try:
        for index in range(finding.index, min(finding.index + finding.span, size, published.size)):
            leaf = theirs([(0, index)])[0]
            if ours([(0, index)])[0] != leaf:
                path = merkle.inclusion(index, published.size, theirs)
                merkle.verify_inclusion(leaf, index, published.size, path, published.root)
                return Finding(index, "another entry was published")
    except LogNotIntact:  # of the copies: they say nothing then
        return finding
    return finding


def first_difference(size: int, ours: merkle.NodeReader, theirs: merkle.NodeReader) -> int | None:
    """The first leaf in which two trees differ, from the top down; None where they do not, up to `size`."""
    for node in merkle.peaks(0, size):
        if ours([node]) != theirs([node]):
            level, index = node
            while level:
                level, index = level - 1, index * 2
                if ours([(level, index)]) == theirs([(level, index)]):
                    index += 1
            return index
    return None
