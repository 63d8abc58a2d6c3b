"""Removing what expired: what publications left behind, sessions, used tokens. Nothing an artifact names is touched."""

from datetime import datetime, timedelta

from sqlmodel import col, delete, select

from modelreg_server.database import Database
from modelreg_server.storage import BlobStore
from modelreg_server.tables import Attempt, Blob, BlobUpload, Token, UsedToken
from modelreg_server.uploading import upload_of

_ENDED_SESSIONS_KEPT = timedelta(days=30)  # for whoever reads the record and asks what a session could do

# A `finish` that began in an attempt's last moment commits a little after its end; its bytes must be there then.
GRACE = timedelta(hours=1)


def sweep(database: Database, store: BlobStore, now: datetime) -> int:
    """Discard the uploads of attempts that expired an hour ago or earlier; returns how many.

    An upload whose key a blob row names was accepted: its row goes, its bytes stay. Bytes go before rows, so that a
    crash in between is repeated, not forgotten.
    """
    before = now - GRACE
    with database.reading() as session:
        left = session.exec(
            select(BlobUpload)
            .join(Attempt, col(Attempt.id) == col(BlobUpload.attempt_id))
            .where(col(Attempt.expires_at) <= before, col(BlobUpload.key).not_in(select(Blob.key)))
        ).all()
    for row in left:
        store.discard(upload_of(row))
    with database.writing() as session, session.begin():
        expired = session.exec(select(Attempt).where(col(Attempt.expires_at) <= before)).all()
        for attempt in expired:
            for upload in session.exec(select(BlobUpload).where(BlobUpload.attempt_id == attempt.id)):
                session.delete(upload)
            session.flush()
            session.delete(attempt)
    sweep_sessions(database, now)
    return len(left)


def sweep_sessions(database: Database, now: datetime) -> None:
    """Forget used tokens that could not be accepted any more, and sessions that ended a month ago."""
    with database.writing() as session, session.begin():
        session.connection().execute(delete(UsedToken).where(col(UsedToken.expires_at) <= now))
        ended = (col(Token.kind) == "session", col(Token.expires_at) <= now - _ENDED_SESSIONS_KEPT)
        session.connection().execute(delete(Token).where(*ended))
