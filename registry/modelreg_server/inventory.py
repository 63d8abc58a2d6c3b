"""Every artifact in every repository that a caller may read: owner, class, state, environments, live loads.

Rows are publications in their order; a page looks at so many of them and leaves out what the caller may not read, so that
it may be short or empty. How often something is loaded is told to who may audit its repository.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from modelreg.answers import ArtifactState
from modelreg.classification import Classification
from modelreg_server import classifying
from modelreg_server.callers import Caller
from modelreg_server.identity import Verb
from modelreg_server.lookups.loads import Outline, outlines
from modelreg_server.lookups.sight import Sight
from modelreg_server.lookups.states import ACTIVE, states_of
from modelreg_server.tables import Artifact, PromotionDecision, Publication, Repository, Tag

_PAGE = 500  # publications read at once
MAX_SCANNED = 10_000  # publications that one request looks at

Held = tuple[str, str]  # a repository and an artifact in it
_Listed = tuple[Publication, str, int, int]  # with its repository's name, the artifact's size in bytes and in files


@dataclass(frozen=True)
class Wanted:
    """Which rows to leave in; None takes all."""

    owner: str | None = None
    classification: Classification | None = None
    environment: str | None = None


@dataclass(frozen=True)
class Item:
    """One row. `loads` is None for who may not audit the repository."""

    repository: str
    artifact: str
    tags: list[str]
    owner: str
    published_at: datetime
    size_bytes: int
    files: int
    classification: Classification | None
    state: ArtifactState
    environments: list[str]
    loads: list[Outline] | None


def environments_of(session: Session, held: Sequence[Held]) -> dict[Held, list[str]]:
    """The environments that each was promoted to and not withdrawn from; absent is none.

    Whether the facts of now still allow it is asked when somebody wants a grant for it.
    """
    found: dict[Held, list[str]] = {}
    query = (
        select(PromotionDecision.repository, PromotionDecision.artifact_digest, PromotionDecision.environment)
        .where(
            col(PromotionDecision.allowed),
            col(PromotionDecision.withdrawn_at).is_(None),
            col(PromotionDecision.artifact_digest).in_({artifact for _, artifact in held}),
        )
        .distinct()
        .order_by(col(PromotionDecision.environment))
    )
    for repository, artifact, environment in session.exec(query):
        found.setdefault((repository, artifact), []).append(environment)
    return found


def page(session: Session, caller: Caller, wanted: Wanted, after: int, limit: int) -> tuple[list[Item], int | None]:
    """Rows whose publication's id is above `after`, and from where to go on; None at the end."""
    found: list[Item] = []
    scanned = 0
    while len(found) < limit and scanned < MAX_SCANNED:
        rows = _publications(session, wanted, after, _PAGE)
        for item, number in _items(session, caller, wanted, rows):
            found.append(item)
            if len(found) == limit:
                return found, number
        if len(rows) < _PAGE:
            return found, None
        after = rows[-1][0].id or after
        scanned += len(rows)
    return found, after


def _publications(session: Session, wanted: Wanted, after: int, limit: int) -> Sequence[_Listed]:
    query = (
        select(Publication, Repository.name, Artifact.size_bytes, Artifact.file_count)
        .join(Repository, col(Repository.id) == col(Publication.repository_id))
        .join(Artifact, col(Artifact.digest) == col(Publication.artifact_digest))
        .where(col(Publication.id) > after)
        .order_by(col(Publication.id))
        .limit(limit)
    )
    if wanted.owner is not None:
        query = query.where(Publication.published_by == wanted.owner)
    return list(session.exec(query))


def _items(session: Session, caller: Caller, wanted: Wanted, rows: Sequence[_Listed]) -> list[tuple[Item, int]]:
    """What of these rows the caller may read and asked for, with the publication's id."""
    may = {name: caller.principal.may(Verb.READ_METADATA, name) for name in {row[1] for row in rows}}
    readable = [row for row in rows if may[row[1]]]
    artifacts = list(dict.fromkeys(row[0].artifact_digest for row in readable))
    classes = classifying.effective_of(session, artifacts)
    environments = environments_of(session, [(row[1], row[0].artifact_digest) for row in readable])
    chosen = []
    for row in readable:
        held = (row[1], row[0].artifact_digest)
        if wanted.classification is not None and classes.get(held[1]) is not wanted.classification:
            continue
        if wanted.environment is not None and wanted.environment not in environments.get(held, []):
            continue
        chosen.append(row)
    states = states_of(session, {row[0].artifact_digest for row in chosen}, caller.now)
    loads = _loads(session, caller, chosen)
    tags = _tags(session, chosen)
    items = []
    for publication, name, size_bytes, files in chosen:
        digest = publication.artifact_digest
        assert publication.id is not None
        items.append(
            (
                Item(
                    repository=name,
                    artifact=digest,
                    tags=tags.get((publication.repository_id, digest), []),
                    owner=publication.published_by,
                    published_at=publication.published_at,
                    size_bytes=size_bytes,
                    files=files,
                    classification=classes.get(digest),
                    state=states.get(digest, ACTIVE),
                    environments=sorted(environments.get((name, digest), [])),
                    loads=loads[name].get(digest, []) if name in loads else None,
                ),
                publication.id,
            )
        )
    return items


def _loads(session: Session, caller: Caller, rows: Sequence[_Listed]) -> dict[str, dict[str, list[Outline]]]:
    """Living loads by repository and artifact, of the repositories that the caller may audit."""
    by_name: dict[str, list[str]] = {}
    for publication, name, _size, _files in rows:
        by_name.setdefault(name, []).append(publication.artifact_digest)
    found: dict[str, dict[str, list[Outline]]] = {}
    for name, digests in by_name.items():
        if caller.principal.may(Verb.AUDIT, name):
            found[name] = {}
            for load in outlines(session, Sight(frozenset({name})), digests, caller.now):
                found[name].setdefault(load.artifact, []).append(load)
    return found


def _tags(session: Session, rows: Sequence[_Listed]) -> dict[tuple[int, str], list[str]]:
    digests = {row[0].artifact_digest for row in rows}
    query = select(Tag).where(col(Tag.artifact_digest).in_(digests)).order_by(col(Tag.name))
    found: dict[tuple[int, str], list[str]] = {}
    for tag in session.exec(query) if digests else ():
        found.setdefault((tag.repository_id, tag.artifact_digest), []).append(tag.name)
    return found
