"""Where it came from and what was made of it: derivations as a graph, walked level by level, each artifact once.

An edge belongs to the repositories that its child is in: whoever may read them reads the edge, with the parent's digest,
which the child's publisher named. Whether that parent is here is told only to who may see it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlmodel import Session, col, select

from modelreg.answers import AsOf, Confidence, LineageAnswer, LineageEdge, LineageNode, Unknown
from modelreg_server import classifying
from modelreg_server.lookups.made_with import claims_of, datasets_of
from modelreg_server.lookups.sight import Sight, batches, repositories_of, visible
from modelreg_server.lookups.states import ACTIVE, states_of
from modelreg_server.lookups.subjects import Subject
from modelreg_server.tables import Derivation, Publication

MAX_ARTIFACTS = 10_000  # of one walk
_GRADES: dict[str, Confidence] = {"attested": "recorded", "claimed": "claimed", "inferred": "inferred"}


@dataclass
class Walk:
    """Artifacts with their depth, in the order they were reached, and every edge between them and their neighbours."""

    depths: dict[str, int] = field(default_factory=dict)
    edges: list[Derivation] = field(default_factory=list)
    publications: dict[str, list[Publication]] = field(default_factory=dict)
    truncated: bool = False


def lineage(
    session: Session, sight: Sight, subject: Subject, as_of: AsOf, *, up: bool, down: bool, limit: int
) -> LineageAnswer:
    """The edges above and below, and every artifact on them."""
    above = walk_up(session, sight, subject.artifacts, as_of.time) if up else Walk()
    below = walk_down(session, sight, subject.artifacts, as_of.time) if down else Walk()
    depths = dict.fromkeys(subject.artifacts, 0) | below.depths
    depths |= {artifact: -depth for artifact, depth in above.depths.items() if artifact not in depths}
    publications = visible(session, sight, depths, as_of.time)
    names = repositories_of(session, (one for many in publications.values() for one in many))
    states = states_of(session, depths, as_of.time)
    classes = classifying.effective_of(session, publications) if as_of.is_now else {}  # they have no history
    makers = [artifact for artifact in (*subject.artifacts, *above.depths) if artifact in publications]
    nodes = [
        LineageNode(
            artifact=artifact,
            depth=depth,
            known=artifact in publications,
            repositories=sorted({names[one.repository_id] for one in publications.get(artifact, ())}),
            state=states.get(artifact, ACTIVE) if artifact in publications else ACTIVE,
            confidence="recorded" if artifact in publications else "unknown",
            classification=classes.get(artifact),
        )
        for artifact, depth in depths.items()
    ]
    return LineageAnswer(
        as_of=as_of,
        asked=subject.asked,
        found=subject.found,
        truncated=subject.truncated
        or above.truncated
        or below.truncated
        or max(map(len, (above.edges, below.edges))) > limit,
        unknown=_unknown(nodes, above, subject, up=up),
        up=[edge_of(row) for row in above.edges[:limit]],
        down=[edge_of(row) for row in below.edges[:limit]],
        nodes=nodes,
        datasets=datasets_of(session, sight, dict.fromkeys(makers), as_of.time, limit),
        claims=claims_of(session, subject.artifacts, as_of.time, limit),
    )


def walk_down(session: Session, sight: Sight, roots: Iterable[str], at: datetime) -> Walk:
    """The roots and all that was made from them, as far as it is within sight."""
    walk = Walk(dict.fromkeys(roots, 0))
    level, depth = list(walk.depths), 0
    while level and not walk.truncated:
        depth += 1
        edges = _edges(session, Derivation.parent, level, at)
        seen = visible(session, sight, {edge.child for edge in edges}, at) if sight.repositories is not None else None
        if seen is not None:
            edges = [edge for edge in edges if edge.child in seen]
        level = _go_on(walk, edges, (edge.child for edge in edges), depth)
    return walk


def walk_up(session: Session, sight: Sight, roots: Iterable[str], at: datetime) -> Walk:
    """The roots and all they were made from; a parent that is not within sight is named, and leads no further."""
    walk = Walk(dict.fromkeys(roots, 0))
    level, depth = list(walk.depths), 0
    while level and not walk.truncated:
        depth += 1
        if sight.repositories is not None:
            level = list(visible(session, sight, level, at))
        edges = _edges(session, Derivation.child, level, at)
        level = _go_on(walk, edges, (edge.parent for edge in edges), depth)
    return walk


def edges_at(session: Session, sight: Sight, artifact: str, at: datetime) -> tuple[list[Derivation], list[Derivation]]:
    """The edges to the parents and to the children of one artifact within sight."""
    up = _edges(session, Derivation.child, [artifact], at)
    down = _edges(session, Derivation.parent, [artifact], at)
    if sight.repositories is not None:
        seen = visible(session, sight, {edge.child for edge in down}, at)
        down = [edge for edge in down if edge.child in seen]
    return up, down


def edge_of(row: Derivation) -> LineageEdge:
    """An edge as it is answered."""
    return LineageEdge(
        child=row.child,
        parent=row.parent,
        relation=row.relation,
        grade=row.grade,
        confidence=_GRADES.get(row.grade, "unknown"),
        recorded_at=row.recorded_at,
        event=row.event_index,
    )


def _go_on(walk: Walk, edges: list[Derivation], reached: Iterable[str], depth: int) -> list[str]:
    """Take in a level's edges; returns the artifacts that were not reached before."""
    walk.edges += edges
    new = [artifact for artifact in dict.fromkeys(reached) if artifact not in walk.depths]
    room = MAX_ARTIFACTS - len(walk.depths)
    walk.truncated = len(new) > room
    walk.depths |= dict.fromkeys(new[:room], depth)
    return new[:room]


def _edges(session: Session, column: str, artifacts: Iterable[str], at: datetime) -> list[Derivation]:
    found: list[Derivation] = []
    for batch in batches(artifacts):
        query = (
            select(Derivation)
            .where(col(column).in_(batch), col(Derivation.recorded_at) <= at)
            .order_by(
                col(Derivation.event_index), col(Derivation.child), col(Derivation.parent), col(Derivation.relation)
            )
        )
        found += session.exec(query)
    return found


def _unknown(nodes: list[LineageNode], above: Walk, subject: Subject, *, up: bool) -> list[Unknown]:
    missing = sum(not node.known for node in nodes)
    found = [Unknown(what="parents", count=missing, text="named as parents, and not in this registry for you to see")]
    if up:
        parented = {edge.child for edge in above.edges}
        orphans = sum(artifact not in parented for artifact in subject.artifacts)
        found.append(Unknown(what="lineage", count=orphans, text="nobody said what it was made from"))
    return [row for row in found if row.count]
