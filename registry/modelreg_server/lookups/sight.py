"""How much of the record a caller may read: all of it, or what belongs to the repositories that they may audit."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, true
from sqlmodel import Session, col, select

from modelreg.answers import AsOf
from modelreg.errors import Invalid, RecordUnavailable, TooLarge
from modelreg_server.callers import Caller, denied
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.identity import EVERYWHERE, Verb
from modelreg_server.tables import Publication, Repository

T = TypeVar("T")

MAX_REPOSITORIES = 10_000  # named in a query for a caller who may not read everything
BATCH = 500  # bound values in one statement


@dataclass(frozen=True)
class Sight:
    """The repositories whose record may be read; None stands for every one, and for what belongs to none."""

    repositories: frozenset[str] | None

    def covers(self, column: Any) -> ColumnElement[bool]:
        """The condition on a column that names a repository."""
        return true() if self.repositories is None else col(column).in_(sorted(self.repositories))


def sight_of(session: Session, caller: Caller) -> Sight:
    """What the caller may read.

    Raises:
        NotPermitted: they may audit nothing.
        TooLarge: more repositories than a query can name.
    """
    principal = caller.principal
    if principal.may_everywhere(Verb.AUDIT):
        return Sight(None)
    if not principal.may_somewhere(Verb.AUDIT):
        raise denied(
            principal,
            Verb.AUDIT,
            EVERYWHERE,
            detail=f"{principal.name} may audit no repository; ask for the verb audit",
        )
    names = frozenset(name for name in session.exec(select(Repository.name)) if principal.may(Verb.AUDIT, name))
    if len(names) > MAX_REPOSITORIES:
        raise TooLarge(
            f"you may audit {len(names)} repositories, a look-up takes {MAX_REPOSITORIES}; ask for audit on {EVERYWHERE}",
            limit=MAX_REPOSITORIES,
            value=len(names),
        )
    return Sight(names)


def as_of(session: Session, caller: Caller, at: datetime | None) -> AsOf:
    """What an answer is as of.

    Raises:
        Invalid: it lies in the future.
        RecordUnavailable: the database was never migrated.
    """
    if at is not None and at > caller.now:
        raise Invalid(f"{at:%Y-%m-%dT%H:%M:%SZ} is in the future; nobody knows yet", field="at")
    size = session.exec(select(CustodyHead.size)).first()
    if size is None:
        raise RecordUnavailable("the custody log has no head; run `modelreg-server migrate`")
    return AsOf(time=at or caller.now, answered_at=caller.now, log_size=size)


def visible(session: Session, sight: Sight, artifacts: Iterable[str], at: datetime) -> dict[str, list[Publication]]:
    """Those artifacts that were published by then in a repository within sight, with their publications there."""
    found: dict[str, list[Publication]] = {}
    for batch in batches(artifacts):
        query = (
            select(Publication)
            .join(Repository, col(Repository.id) == col(Publication.repository_id))
            .where(
                col(Publication.artifact_digest).in_(batch),
                col(Publication.published_at) <= at,
                sight.covers(Repository.name),
            )
            .order_by(col(Publication.id))
        )
        for publication in session.exec(query):
            found.setdefault(publication.artifact_digest, []).append(publication)
    return found


def repositories_of(session: Session, publications: Iterable[Publication]) -> dict[int, str]:
    """The names of their repositories, by id."""
    ids = sorted({publication.repository_id for publication in publications})
    found: dict[int, str] = {}
    for batch in batches(ids):
        query = select(Repository.id, Repository.name).where(col(Repository.id).in_(batch))
        found |= {number: name for number, name in session.exec(query) if number is not None}
    return found


def batches(values: Iterable[T]) -> Iterator[Sequence[T]]:
    """At most so many values a statement."""
    rest = iter(values)
    while batch := list(islice(rest, BATCH)):
        yield batch
