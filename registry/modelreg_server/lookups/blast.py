"""The blast radius: artifacts, all that was made of them, who pulled it, on which hosts it is and runs, whom to call."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import func
from sqlmodel import Session, col, select

from modelreg.answers import (
    AsOf,
    BlastRadiusAnswer,
    Confidence,
    Person,
    ReachCounts,
    ReachedArtifact,
    ReachedHost,
    Unknown,
)
from modelreg_server.lookups.lineage import Walk, edge_of, walk_down
from modelreg_server.lookups.loads import Outline, described, outlines, unknown_of
from modelreg_server.lookups.origins import Origin
from modelreg_server.lookups.reach import Reach, Tally, reach_of
from modelreg_server.lookups.sight import Sight, batches, repositories_of, visible
from modelreg_server.lookups.states import ACTIVE, states_of
from modelreg_server.tables import Derivation, Host, Publication, Repository, Signature

Role = Literal["publisher", "signer", "puller", "inviter"]
_WEAKER: dict[Confidence, int] = {"recorded": 0, "claimed": 1, "inferred": 2, "stale": 3, "unknown": 4}


def blast_radius(session: Session, sight: Sight, origin: Origin, as_of: AsOf, *, limit: int) -> BlastRadiusAnswer:
    """Everything within reach of an origin. Lists hold the first `limit` rows; the counts are of all."""
    at = as_of.time
    walk = walk_down(session, sight, origin.roots, at)
    publications = visible(session, sight, walk.depths, at)
    reach = reach_of(session, sight, walk.depths, at)
    loads = outlines(session, sight, walk.depths, at)
    hosts = _hosts(session, sight, reach, loads, at)
    people = _people(session, publications, reach, hosts, at)
    granted = sum(tally.grants for tally in reach.hosts.values())
    received = sum(tally.received for tally in reach.hosts.values())
    lists = (walk.depths, hosts, loads, people)
    return BlastRadiusAnswer(
        as_of=as_of,
        asked=origin.asked,
        found=origin.found,
        truncated=origin.truncated or walk.truncated or any(len(rows) > limit for rows in lists),
        unknown=[
            *_unknown(session, sight, walk, at),
            *([Unknown(what="arrival", count=granted - received, text="granted, and nobody said that it arrived")]
              if granted > received else []),
            *unknown_of(loads),
        ],
        kind=origin.kind,
        counts=ReachCounts(
            artifacts=len(walk.depths),
            descendants=sum(depth > 0 for depth in walk.depths.values()),
            grants=granted,
            received=received,
            hosts=len(hosts),
            live_loads=len(loads),
            stale_loads=sum(load.state == "stale" for load in loads),
            people=len(people),
        ),
        artifacts=_artifacts(session, origin, walk, publications, reach, loads, at)[:limit],
        hosts=hosts[:limit],
        loads=described(session, loads[:limit], at),
        people=people[:limit],
    )  # fmt: skip


def _artifacts(
    session: Session,
    origin: Origin,
    walk: Walk,
    publications: dict[str, list[Publication]],
    reach: Reach,
    loads: list[Outline],
    at: datetime,
) -> list[ReachedArtifact]:
    names = repositories_of(session, (one for many in publications.values() for one in many))
    states = states_of(session, walk.depths, at)
    living = Counter(load.artifact for load in loads)
    parents: dict[str, list[Derivation]] = defaultdict(list)
    for edge in walk.edges:
        parents[edge.child].append(edge)
    confidences: dict[str, Confidence] = {}
    rows = []
    for artifact, depth in walk.depths.items():  # parents before their children
        why, confidence = origin.roots.get(artifact), "recorded"
        if why is None:
            edge = next(edge for edge in parents[artifact] if walk.depths.get(edge.parent) == depth - 1)
            why = f"{edge.relation} of {edge.parent}"
            confidence = max(edge_of(edge).confidence, confidences[edge.parent], key=_WEAKER.__getitem__)
        confidences[artifact] = confidence  # type: ignore[assignment]  # one of the words above
        rows.append(
            ReachedArtifact(
                artifact=artifact,
                why=why,
                depth=depth,
                confidence=confidences[artifact],
                repositories=sorted({names[one.repository_id] for one in publications.get(artifact, ())}),
                state=states.get(artifact, ACTIVE),
                grants=reach.artifacts[artifact],
                live_loads=living[artifact],
            )
        )
    return rows


def _hosts(session: Session, sight: Sight, reach: Reach, loads: list[Outline], at: datetime) -> list[ReachedHost]:
    """Machines, those that run something first, then those with most grants."""
    living: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for load in loads:
        machine = (load.host, False) if load.verified_host is None else (load.verified_host, True)
        living[machine][load.state] += 1
    enrolled = _enrolled(session, {name for name, verified in (*reach.hosts, *living) if verified}, at)
    rows = []
    for name, verified in {**reach.hosts, **living}:
        tally, states = reach.hosts.get((name, verified), Tally()), living.get((name, verified), Counter())
        host = enrolled.get(name) if verified else None
        surely = bool(tally.received or states["running"])
        confidence: Confidence = "unknown" if not surely else "recorded" if verified else "claimed"
        rows.append(
            ReachedHost(
                host=name,
                verified=verified,
                host_class=host.host_class if host else None,
                zone=host.zone if host else None,
                artifacts=tally.artifacts,
                grants=tally.grants,
                received=tally.received,
                last_granted_at=tally.last_at,
                live_loads=sum(states.values()),
                stale_loads=states["stale"],
                # Who invites machines is not any one repository's business.
                invited_by=host.invited_by if host and sight.repositories is None else None,
                confidence=confidence,
            )
        )
    return sorted(rows, key=lambda row: (-row.live_loads, -row.grants, row.host, row.verified))


class _Enrolled(NamedTuple):
    host_class: str
    zone: str
    invited_by: str


def _enrolled(session: Session, names: set[str], at: datetime) -> dict[str, _Enrolled]:
    """The newest host of each name that was enrolled by then."""
    found: dict[str, _Enrolled] = {}
    for batch in batches(sorted(names)):
        query = select(Host.name, Host.host_class, Host.zone, Host.invited_by).where(
            col(Host.name).in_(batch), col(Host.enrolled_at) <= at
        )
        for name, *facts in session.exec(query.order_by(col(Host.enrolled_at))):
            found[name] = _Enrolled(*facts)
    return found


def _people(
    session: Session, publications: dict[str, list[Publication]], reach: Reach, hosts: list[ReachedHost], at: datetime
) -> list[Person]:
    """Whom to call: who published and signed first, then who pulled most."""
    roles: dict[str, set[Role]] = defaultdict(set)
    for publication in (one for many in publications.values() for one in many):
        roles[publication.published_by].add("publisher")
    for batch in batches(one.id for many in publications.values() for one in many):
        signed = select(Signature.added_by).where(
            col(Signature.publication_id).in_(batch), col(Signature.added_at) <= at
        )
        for principal in session.exec(signed.distinct()):
            roles[principal].add("signer")
    for principal in reach.people:
        roles[principal].add("puller")
    for host in hosts:
        if host.invited_by is not None:
            roles[host.invited_by].add("inviter")
    tallies = {principal: reach.people.get(principal, Tally()) for principal in roles}
    rows = [
        Person(
            principal=principal,
            roles=sorted(has, key=("publisher", "signer", "puller", "inviter").index),
            grants=tallies[principal].grants,
            last_at=tallies[principal].last_at,
        )
        for principal, has in roles.items()
    ]
    return sorted(rows, key=lambda row: ("publisher" not in row.roles, -row.grants, row.principal))


def _unknown(session: Session, sight: Sight, walk: Walk, at: datetime) -> list[Unknown]:
    """How many more artifacts could descend from these, because nobody said what they were made from."""
    parented = select(Derivation.child).where(
        Derivation.child == Publication.artifact_digest, col(Derivation.recorded_at) <= at
    )
    orphans = session.exec(
        select(func.count(col(Publication.artifact_digest).distinct()))
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .where(col(Publication.published_at) <= at, sight.covers(Repository.name), ~parented.exists())
    ).one()
    orphans -= _orphans(session, walk.depths, at)
    text = "artifacts of unknown parents: any of them could descend from these"
    return [Unknown(what="lineage", count=orphans, text=text)] if orphans > 0 else []


def _orphans(session: Session, artifacts: Iterable[str], at: datetime) -> int:
    """How many of these have no parents."""
    count = 0
    for batch in batches(artifacts):
        query = select(func.count(col(Derivation.child).distinct())).where(
            col(Derivation.child).in_(batch), col(Derivation.recorded_at) <= at
        )
        count += len(batch) - session.exec(query).one()
    return count
