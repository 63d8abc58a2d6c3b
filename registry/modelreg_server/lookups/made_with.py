"""What artifacts were made with beside their parents, and what their files claim: datasets, licences, names."""

from collections.abc import Iterable
from datetime import datetime

from sqlmodel import Session, col, select

from modelreg.answers import FileClaim, UsedDataset
from modelreg_server.lookups.sight import Sight, batches
from modelreg_server.tables import DatasetRecord, DatasetUse, ModelClaim


def datasets_of(
    session: Session, sight: Sight, artifacts: Iterable[str], at: datetime, limit: int
) -> list[UsedDataset]:
    """The datasets of artifacts within sight, at most `limit`."""
    rows: list[DatasetUse] = []
    for batch in batches(artifacts):
        query = (
            select(DatasetUse)
            .where(col(DatasetUse.artifact).in_(batch), col(DatasetUse.recorded_at) <= at)
            .order_by(col(DatasetUse.event_index), col(DatasetUse.artifact), col(DatasetUse.dataset))
            .limit(limit)
        )
        rows += session.exec(query)
    classes = _classes(session, sight, {row.dataset for row in rows}, at)
    return [
        UsedDataset(
            artifact=row.artifact,
            dataset=row.dataset,
            name=row.name,
            grade=row.grade,
            classification=classes.get((row.dataset, row.name)),
            event=row.event_index,
        )
        for row in rows[:limit]
    ]


def claims_of(session: Session, artifacts: Iterable[str], at: datetime, limit: int) -> list[FileClaim]:
    """What the files of artifacts within sight claim, at most `limit`."""
    found: list[FileClaim] = []
    for batch in batches(artifacts):
        query = (
            select(ModelClaim)
            .where(col(ModelClaim.artifact).in_(batch), col(ModelClaim.recorded_at) <= at)
            .order_by(col(ModelClaim.id))
            .limit(limit)
        )
        found += [
            FileClaim(
                artifact=row.artifact,
                kind=row.kind,
                value=row.value,
                path=row.path,
                member=row.member,
                resolved=row.resolved,
            )
            for row in session.exec(query)
        ]
    return found[:limit]


def _classes(session: Session, sight: Sight, digests: Iterable[str], at: datetime) -> dict[tuple[str, str], str]:
    """By digest and name, the class of the newest record by then under a name within sight."""
    found: dict[tuple[str, str], str] = {}
    for batch in batches(digests):
        query = select(DatasetRecord.digest, DatasetRecord.name, DatasetRecord.classification).where(
            col(DatasetRecord.digest).in_(batch),
            col(DatasetRecord.registered_at) <= at,
            sight.covers(DatasetRecord.name),
        )
        for digest, name, value in session.exec(query.order_by(col(DatasetRecord.id))):
            found[digest, name] = value
    return found
