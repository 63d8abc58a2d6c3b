"""What an artifact was made from, as its publisher says when publishing: rows that are added to and never taken away."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from modelreg import wire
from modelreg.errors import Invalid
from modelreg_server.database import insert_if_absent
from modelreg_server.tables import Derivation

CLAIMED = "claimed"  # the publisher's word, or a file's
ATTESTED = "attested"  # signed by somebody whom the trust policy lets say it


def stored(artifact: str, parents: Sequence[wire.Parent]) -> list[dict[str, str]]:
    """Parents as an attempt keeps them, each once.

    Raises:
        Invalid: an artifact as its own parent.
    """
    if any(parent.artifact == artifact for parent in parents):
        raise Invalid(f"{artifact} is named as its own parent", field="parents", value=artifact)
    return [parent.model_dump() for parent in dict.fromkeys(parents)]


def new_of(session: Session, artifact: str, parents: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Those parents that are not recorded yet."""
    query = select(Derivation.parent, Derivation.relation).where(col(Derivation.child) == artifact)
    known = set(session.exec(query)) if parents else set()
    return [parent for parent in parents if (parent["artifact"], parent["relation"]) not in known]


def detail_of(parents: Sequence[dict[str, str]]) -> dict[str, Any]:
    """What an event says of new parents: digests by relation, which is short enough for an entry."""
    by_relation: dict[str, list[str]] = {}
    for parent in parents:
        by_relation.setdefault(parent["relation"], []).append(parent["artifact"])
    return {"parents": by_relation} if by_relation else {}


def record(session: Session, artifact: str, parents: Sequence[dict[str, str]], index: int, now: datetime) -> None:
    """Add the edges inside the caller's transaction; `index` is the event that names them."""
    insert_if_absent(
        session,
        [
            Derivation(
                child=artifact,
                parent=parent["artifact"],
                relation=parent["relation"],
                grade=CLAIMED,
                recorded_at=now,
                event_index=index,
            )
            for parent in parents
        ],
    )


def raise_grade(
    session: Session, artifact: str, parent: str, relation: str, grade: str, index: int, now: datetime
) -> None:
    """Add an edge, or raise a claimed one to `attested`; it is known since it was first said. `index`: the event."""
    row = session.get(Derivation, (artifact, parent, relation))
    if row is None:
        row = Derivation(
            child=artifact, parent=parent, relation=relation, grade=grade, recorded_at=now, event_index=index
        )
    elif grade == ATTESTED and row.grade != ATTESTED:
        row.grade, row.event_index = ATTESTED, index
    session.add(row)
