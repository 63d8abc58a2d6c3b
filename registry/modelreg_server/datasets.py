"""Datasets: signed records by name and digest, each a new row; the newest of a digest under a name holds.

A name is one like a repository's, and the same grants decide: `push` registers, `read-metadata` looks, `approve` declassifies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, func, select

from modelreg import attestations, bundles, declassification
from modelreg import datasets as records
from modelreg.attestations import Kind, VerifiedAttestation
from modelreg.classification import Classification
from modelreg.datasets import Dataset
from modelreg.digests import Digest
from modelreg.errors import Conflict, NotFound, PolicyRefused, SignatureInvalid, TooLarge
from modelreg.trust import MAX_CLOCK_SKEW, TrustPolicy
from modelreg_server import attestations as recording
from modelreg_server import classifying, custody
from modelreg_server.callers import Caller
from modelreg_server.custody import Event, EventType
from modelreg_server.database import Database
from modelreg_server.identity import Principal, Verb
from modelreg_server.tables import AttestationRow, DatasetRecord, DatasetUse

MAX_RECORDS = 1000  # of one name
MAX_BUNDLE_BYTES = 256 * 1024  # of a record or declassification: a few texts, a chain, a time stamp


@dataclass(frozen=True)
class Recorded:
    """A record, and whether it is the newest of its digest under its name."""

    row: DatasetRecord
    current: bool


def register(database: Database, caller: Caller, name: str, raw_bundle: bytes, policy: TrustPolicy) -> DatasetRecord:
    """Verify and keep a record of a dataset, with `dataset.registered`; the same statement again is no event.

    Everything that was made with the dataset is at least as sensitive from now on.

    Raises:
        Untrusted: signature, signer or record do not hold, or name another dataset.
        PolicyRefused: its class is below that of the record before it, and no declassification since then allows that.
        Conflict: it is older than the one before it, or the name has as many records as it can have.
        TooLarge: the bundle is, or too many artifacts were made with it.
    """
    _require_small(raw_bundle)
    verified = attestations.verify(raw_bundle, policy=policy, repository=name, now=caller.now, kind=Kind.DATASET)
    said, signer = verified.attestation, verified.signer
    record = records.read(said.subjects[0], said.predicate)
    if record.name != name:
        raise SignatureInvalid(f"the statement is a record of {record.name}, not of {name}")
    if record.stated_at is not None and record.stated_at > caller.now + MAX_CLOCK_SKEW:
        raise SignatureInvalid(
            f"the record is dated {record.stated_at:%Y-%m-%d %H:%M}Z, in the future; check the clock"
        )
    with database.writing() as session, session.begin():
        custody.hold(session)
        key_id = str(signer.key_ids[0])
        known = session.exec(
            select(DatasetRecord).where(
                DatasetRecord.name == name,
                DatasetRecord.statement == str(said.digest),
                DatasetRecord.key_id == key_id,
            )
        ).one_or_none()
        if known is not None:
            session.expunge_all()
            return known
        if (
            session.exec(select(func.count(col(DatasetRecord.id))).where(DatasetRecord.name == name)).one()
            >= MAX_RECORDS
        ):
            raise Conflict(f"{name} has {MAX_RECORDS} records; it takes no more")
        before = _newest(session, name, str(record.digest))
        if before is not None:
            _require_newer(before, record)
            _require_not_lowered(session, before, record)
        recording.record(session, caller, name, verified)  # for whoever looks for what is signed about a digest
        row = _row(record, verified, caller, _append(session, caller, record, verified))
        session.add(row)
        session.flush()
        users = session.exec(select(DatasetUse.artifact).where(DatasetUse.dataset == row.digest)).all()
        classifying.reconsider(session, users, caller.now)
        session.flush()
        session.refresh(row)
        session.expunge_all()
    return row


def declassify(
    database: Database, caller: Caller, name: str, digest: Digest, raw_bundle: bytes, policy: TrustPolicy
) -> AttestationRow:
    """Keep the leave to register a dataset again with a lower class; by itself it changes nothing.

    Raises:
        NotFound: the dataset is not registered under this name.
        Untrusted: signature, signer or statement do not hold.
    """
    _require_small(raw_bundle)
    verified = attestations.verify(
        raw_bundle, policy=policy, repository=name, now=caller.now, kind=Kind.DECLASSIFICATION, subject=digest
    )
    declassification.read(digest, verified.attestation.predicate)
    with database.writing() as session, session.begin():
        custody.hold(session)
        if _newest(session, name, str(digest)) is None:
            raise NotFound(f"there is no dataset {name}@{digest}, or this token may not see it")
        row = recording.record(session, caller, name, verified)
        session.flush()
        session.refresh(row)
        session.expunge_all()
    return row


def of_name(session: Session, name: str) -> list[Recorded]:
    """All records of a dataset, newest first.

    Raises:
        NotFound: there is none.
    """
    rows = session.exec(
        select(DatasetRecord).where(DatasetRecord.name == name).order_by(col(DatasetRecord.id).desc())
    ).all()
    if not rows:
        raise NotFound(f"there is no dataset {name}, or this token may not see it")
    newest: dict[str, int | None] = {}
    for row in rows:
        newest.setdefault(row.digest, row.id)
    return [Recorded(row, newest[row.digest] == row.id) for row in rows]


def page(session: Session, principal: Principal, after: str, limit: int) -> list[DatasetRecord]:
    """The newest record of each dataset that the principal may see, by name after `after`."""
    found: list[DatasetRecord] = []
    while len(found) < limit:
        last = (
            select(func.max(col(DatasetRecord.id)))
            .where(col(DatasetRecord.name) > after)
            .group_by(col(DatasetRecord.name))
            .order_by(col(DatasetRecord.name))
            .limit(limit)
        )
        ids = session.exec(last).all()
        rows = session.exec(
            select(DatasetRecord).where(col(DatasetRecord.id).in_(ids)).order_by(col(DatasetRecord.name))
        ).all()
        if not rows:
            break
        after = rows[-1].name
        found += [row for row in rows if principal.may(Verb.READ_METADATA, row.name)]
    return found[:limit]


def of_digest(session: Session, digest: str) -> Sequence[DatasetRecord]:
    """The newest record of a digest under each name that has one: what holds of it."""
    last = select(func.max(col(DatasetRecord.id))).where(DatasetRecord.digest == digest).group_by(DatasetRecord.name)
    return session.exec(
        select(DatasetRecord).where(col(DatasetRecord.id).in_(last)).order_by(col(DatasetRecord.name))
    ).all()


def named(session: Session, caller: Caller, name: str) -> DatasetRecord | None:
    """The newest record of exactly this name, if the caller may see it."""
    if not caller.principal.may(Verb.READ_METADATA, name):
        return None
    query = select(DatasetRecord).where(DatasetRecord.name == name).order_by(col(DatasetRecord.id).desc())
    return session.exec(query.limit(1)).one_or_none()


def may_see(session: Session, caller: Caller, digest: Digest) -> bool:
    """Whether the caller may see a record of the dataset."""
    names = session.exec(select(DatasetRecord.name).where(DatasetRecord.digest == str(digest)).distinct())
    return any(caller.principal.may(Verb.READ_METADATA, name) for name in names)


def _require_small(raw_bundle: bytes) -> None:
    if len(raw_bundle) > MAX_BUNDLE_BYTES:
        raise TooLarge(
            f"the statement has {len(raw_bundle)} bytes; the limit is {MAX_BUNDLE_BYTES}", limit=MAX_BUNDLE_BYTES
        )


def _newest(session: Session, name: str, digest: str) -> DatasetRecord | None:
    query = select(DatasetRecord).where(DatasetRecord.name == name, DatasetRecord.digest == digest)
    return session.exec(query.order_by(col(DatasetRecord.id).desc()).limit(1)).one_or_none()


def _require_newer(before: DatasetRecord, record: Dataset) -> None:
    """Nobody brings an old record back by sending it again, or one of today by dating it ahead."""
    last = _stated_at(before)
    if last is not None and (record.stated_at is None or record.stated_at <= last):
        raise Conflict(
            f"{record.name}@{record.digest} has a record of {last:%Y-%m-%d %H:%M:%S}Z, and this one is no newer; sign again",
            stated_at=last.isoformat(),
        )


def _stated_at(row: DatasetRecord) -> datetime | None:
    said = attestations.parse(bundles.parse(row.bundle).payload)
    return records.read(said.subjects[0], said.predicate).stated_at


def _require_not_lowered(session: Session, before: DatasetRecord, record: Dataset) -> None:
    present = Classification(before.classification)
    if record.classification.rank >= present.rank:
        return
    said = session.exec(
        select(AttestationRow).where(
            AttestationRow.repository == record.name,
            AttestationRow.about_digest == str(record.digest),
            AttestationRow.kind == Kind.DECLASSIFICATION.value,
            col(AttestationRow.event_index) > before.event_index,  # one holds for one lowering
        )
    )
    given = [one for row in said if (one := classifying.read_declassification(row)) is not None]
    if declassification.best(given, present).rank > record.classification.rank:
        raise PolicyRefused(
            f"{record.name}@{record.digest} is {present} and would become {record.classification}; have somebody who may "
            f"lower it first: modelreg declassify --dataset {record.name} --to {record.classification} --reason …",
            present=present.value,
            declared=record.classification.value,
        )


def _append(session: Session, caller: Caller, record: Dataset, verified: VerifiedAttestation) -> int:
    event = Event(
        EventType.DATASET_REGISTERED,
        record.name,
        str(record.digest),
        detail={
            "statement": str(verified.attestation.digest),
            "classification": record.classification.value,
            "authority": verified.signer.authority,
        },
        about=caller.principal.name,
        personal={"identity": verified.signer.identity},
    )
    return custody.append(session, caller.actor, event, caller.now)


def _row(record: Dataset, verified: VerifiedAttestation, caller: Caller, index: int) -> DatasetRecord:
    signer = verified.signer
    return DatasetRecord(
        name=record.name,
        digest=str(record.digest),
        owner=record.owner,
        classification=record.classification.value,
        lawful_basis=record.lawful_basis,
        residency=list(record.residency),
        retention_until=record.retention_until,
        source=record.source,
        statement=str(verified.attestation.digest),
        bundle=verified.raw_bundle,
        authority=signer.authority,
        identity=signer.identity,
        key_id=str(signer.key_ids[0]),
        signed_at=signer.signed_at,
        registered_at=caller.now,
        registered_by=caller.principal.name,
        event_index=index,
    )
