"""How sensitive artifacts are: computed from what is declared, what they were made of, and declassifications; stored.

    raw        highest of: declared, effective of each parent, class of each dataset, confidential in a sensitive repository
    effective  raw; or what a declassification makes of it, if each repository that holds the artifact recorded one

Every edge counts, also a claimed one: a claim can raise a class and never lower it. A change goes down to all that was made
from the artifact, in the transaction that made it.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from modelreg import attestations, bundles, declassification
from modelreg.attestations import Kind
from modelreg.classification import Classification, highest
from modelreg.declassification import Declassification
from modelreg.errors import SignatureInvalid, TooLarge
from modelreg_server.database import insert_if_absent
from modelreg_server.tables import (
    ArtifactClass,
    AttestationRow,
    DatasetRecord,
    DatasetUse,
    Derivation,
    Publication,
    Repository,
    table_of,
)

MAX_AFFECTED = 10_000  # artifacts that one change may reach
_BATCH = 500  # bound parameters in one statement


@dataclass
class _Node:
    """What an artifact's class follows from, and what it is so far."""

    declared: Classification | None = None
    sensitive: bool = False
    parents: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    lowering: dict[str, list[tuple[Declassification, str]]] = field(default_factory=dict)  # of each holding repository
    inherited: Classification | None = None
    effective: Classification | None = None


def reconsider(session: Session, artifacts: Iterable[str], now: datetime) -> None:
    """Compute anew, and store, the classes of artifacts and of everything that was made from them.

    Call it with the log's lock held, after the rows it rests on are flushed. O(edges below the artifacts).

    Raises:
        TooLarge: more than `MAX_AFFECTED` artifacts.
    """
    nodes = {artifact: _Node() for artifact in _with_descendants(session, artifacts)}
    outside = _gather(session, nodes)
    datasets = of_datasets(session, {name for node in nodes.values() for name in node.datasets})
    children: dict[str, list[str]] = {}
    for artifact, node in nodes.items():
        for parent in node.parents & nodes.keys():
            children.setdefault(parent, []).append(artifact)

    def effective_of(artifact: str) -> Classification | None:
        return nodes[artifact].effective if artifact in nodes else outside.get(artifact)

    # From nothing upwards until nothing changes: each class rises three times at most, so that circles end too.
    waiting = deque(nodes)
    while waiting:
        artifact = waiting.popleft()
        node = nodes[artifact]
        inputs = [*map(effective_of, node.parents), *map(datasets.get, node.datasets)]
        node.inherited = highest(one for one in inputs if one is not None)
        found = _lowered(node)
        if found != node.effective:
            node.effective = found
            waiting += children.get(artifact, ())
    _store(session, nodes, effective_of, datasets, now)


def declare(session: Session, artifact: str, declared: Classification, now: datetime) -> None:
    """Keep what a maker declares; of several the highest."""
    row = _row(session, artifact, now)
    row.declared = _highest(row.declared, declared)
    session.add(row)


def seen(session: Session, artifact: str, now: datetime) -> None:
    """Make the artifact's row, if there is none."""
    _row(session, artifact, now)


def effective_of(session: Session, artifacts: Collection[str]) -> dict[str, Classification]:
    """The effective classes that are known."""
    found: dict[str, Classification] = {}
    for batch in _batches(artifacts):
        query = select(ArtifactClass.artifact, ArtifactClass.effective).where(col(ArtifactClass.artifact).in_(batch))
        found |= {name: Classification(value) for name, value in session.exec(query) if value is not None}
    return found


def of_datasets(session: Session, digests: Collection[str]) -> dict[str, Classification]:
    """The classes of datasets: of each name's newest record the highest, for one digest may have several owners."""
    newest: dict[tuple[str, str], Classification] = {}
    for batch in _batches(digests):
        query = select(DatasetRecord.digest, DatasetRecord.name, DatasetRecord.classification).where(
            col(DatasetRecord.digest).in_(batch)
        )
        for digest, name, value in session.exec(query.order_by(col(DatasetRecord.id))):
            newest[digest, name] = Classification(value)
    found: dict[str, Classification] = {}
    for (digest, _), value in newest.items():
        found[digest] = max(value, found.get(digest, value), key=lambda one: one.rank)
    return found


def _with_descendants(session: Session, artifacts: Iterable[str]) -> list[str]:
    found = dict.fromkeys(artifacts)
    level: Sequence[str] = list(found)
    while level:
        below: list[str] = []
        for batch in _batches(level):
            query = select(Derivation.child).where(col(Derivation.parent).in_(batch)).distinct()
            below += [child for child in session.exec(query) if child not in found]
        level = list(dict.fromkeys(below))
        found |= dict.fromkeys(level)
        if len(found) > MAX_AFFECTED:
            raise TooLarge(
                f"this would change the class of more than {MAX_AFFECTED} artifacts at once; ask an administrator",
                limit=MAX_AFFECTED,
            )
    return list(found)


def _gather(session: Session, nodes: dict[str, _Node]) -> dict[str, Classification]:
    """Fill the nodes in; returns the classes of parents that are none of them."""
    for batch in _batches(nodes):
        edges = select(Derivation.child, Derivation.parent).where(col(Derivation.child).in_(batch))
        for child, parent in session.exec(edges):
            nodes[child].parents.add(parent)
        uses = select(DatasetUse.artifact, DatasetUse.dataset).where(col(DatasetUse.artifact).in_(batch))
        for artifact, dataset in session.exec(uses):
            nodes[artifact].datasets.add(dataset)
        declared = select(ArtifactClass.artifact, ArtifactClass.declared).where(col(ArtifactClass.artifact).in_(batch))
        for artifact, value in session.exec(declared):
            nodes[artifact].declared = Classification(value) if value is not None else None
        holders = (
            select(Publication.artifact_digest, Repository.name, Repository.sensitive)
            .join(Repository, col(Repository.id) == col(Publication.repository_id))
            .where(col(Publication.artifact_digest).in_(batch))
        )
        for artifact, name, sensitive in session.exec(holders):
            nodes[artifact].lowering[name] = []
            nodes[artifact].sensitive |= sensitive
        said = select(AttestationRow).where(
            col(AttestationRow.about_digest).in_(batch), AttestationRow.kind == Kind.DECLASSIFICATION.value
        )
        for row in session.exec(said):
            held = nodes[row.about_digest].lowering.get(row.repository)
            if held is not None and (read := read_declassification(row)) is not None:
                held.append((read, row.identity))
    return effective_of(session, {parent for node in nodes.values() for parent in node.parents} - nodes.keys())


def read_declassification(row: AttestationRow) -> Declassification | None:
    """A declassification as it was verified when it came; one that cannot be read lowers nothing."""
    try:
        said = attestations.parse(bundles.parse(row.bundle).payload)
        return declassification.read(said.subjects[0], said.predicate)
    except SignatureInvalid:
        return None


def _raw(node: _Node) -> Classification | None:
    floor = Classification.CONFIDENTIAL if node.sensitive else None
    return highest(one for one in (node.declared, node.inherited, floor) if one is not None)


def _lowered(node: _Node) -> Classification | None:
    """Monotone in what is inherited: what rises above a declassification is no longer lowered by it."""
    raw = _raw(node)
    if raw is None or not node.lowering:
        return raw
    return highest(declassification.best((one for one, _ in said), raw) for said in node.lowering.values())


def _lowered_by(node: _Node) -> str | None:
    raw = _raw(node)
    if raw is None or node.effective == raw:
        return None
    names = {who for said in node.lowering.values() for one, who in said if one.lowers(raw) != raw}
    return ", ".join(sorted(names))[:1000]


def _store(
    session: Session,
    nodes: dict[str, _Node],
    effective_of: Callable[[str], Classification | None],
    datasets: dict[str, Classification],
    now: datetime,
) -> None:
    table = table_of(ArtifactClass)
    present: dict[str, tuple[object, ...]] = {}
    for batch in _batches(nodes):
        query = table.select().where(table.c.artifact.in_(batch))
        for row in session.connection().execute(query):
            present[row.artifact] = (row.inherited, row.effective, row.lowered_by, row.unknown_inputs)
    new, changed = [], []
    for artifact, node in nodes.items():
        unknown = sum(effective_of(parent) is None for parent in node.parents) + len(node.datasets - datasets.keys())
        values = (_value(node.inherited), _value(node.effective), _lowered_by(node), unknown)
        if present.get(artifact) == values:
            continue
        named = dict(zip(("inherited", "effective", "lowered_by", "unknown_inputs"), values, strict=True))
        if artifact in present:
            changed.append({"about": artifact, **named, "updated_at": now})
        else:
            new.append({"artifact": artifact, "declared": None, **named, "updated_at": now})
    if new:
        session.connection().execute(table.insert(), new)
    if changed:
        session.connection().execute(table.update().where(table.c.artifact == bindparam("about")), changed)
    for held in list(session.identity_map.values()):
        if isinstance(held, ArtifactClass):  # it says what it said before
            session.expire(held)


def _value(one: Classification | None) -> str | None:
    return one.value if one is not None else None


def _row(session: Session, artifact: str, now: datetime) -> ArtifactClass:
    insert_if_absent(session, [ArtifactClass(artifact=artifact, unknown_inputs=0, updated_at=now)])
    return session.get_one(ArtifactClass, artifact)


def _highest(one: str | None, other: Classification) -> str:
    return max(other, Classification(one) if one is not None else other, key=lambda value: value.rank).value


def _batches(values: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(values)
    while batch := list(islice(rest, _BATCH)):
        yield batch
