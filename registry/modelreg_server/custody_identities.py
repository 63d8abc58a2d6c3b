"""Who stands in the log, without being in it: an entry holds a salted commitment, and a row here opens it.

The commitment is SHA-256 over 32 random bytes and the canonical JSON of what it stands for. While the row is there, anybody
who is shown it can check it against the entry; once it is erased, the tree is whole and nobody can tell who it was, not
even by trying names. The same person with the same token on the same address shares one row.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import JSON, LargeBinary
from sqlmodel import Field, Session, SQLModel, col, delete, select

from modelreg.canonical import canonical_json
from modelreg.errors import TooLarge
from modelreg_server.database import insert_if_absent

SALT_BYTES = 32
MAX_BODY_BYTES = 8 * 1024
_BATCH = 500


class CustodyIdentity(SQLModel, table=True):
    """Who stands behind a commitment in the log; erasing the row leaves the tree whole and the name unknown.

    `commitment` is SHA-256 over `salt` (32 bytes) and the canonical JSON of `body`; `plain_sha256` finds the row again.
    """

    __tablename__ = "custody_identity"

    commitment: str = Field(primary_key=True, max_length=64)
    plain_sha256: str = Field(unique=True, max_length=64)
    salt: bytes = Field(sa_type=LargeBinary)
    principal: str = Field(index=True, max_length=200)
    body: dict[str, Any] = Field(sa_type=JSON)


def commit(session: Session, principal: str, body: dict[str, Any]) -> str:
    """The commitment to a body, made now unless it is there already; inside the caller's transaction.

    Call it with the log's lock held: two transactions would make two commitments, and one of them would fail.

    Raises:
        TooLarge: the body exceeds 8 KiB.
    """
    plain = canonical_json(body)
    if len(plain) > MAX_BODY_BYTES:
        raise TooLarge(f"{len(plain)} bytes about who did it; the limit is {MAX_BODY_BYTES}", limit=MAX_BODY_BYTES)
    plain_sha256 = hashlib.sha256(plain).hexdigest()
    known: dict[str, str] = session.info.setdefault("custody_identities", {})
    if (found := known.get(plain_sha256)) is not None:
        return found
    query = select(CustodyIdentity.commitment).where(CustodyIdentity.plain_sha256 == plain_sha256)
    commitment = session.exec(query).one_or_none()
    if commitment is None:
        salt = secrets.token_bytes(SALT_BYTES)
        commitment = commitment_of(salt, plain)
        row = CustodyIdentity(
            commitment=commitment, plain_sha256=plain_sha256, salt=salt, principal=principal[:200], body=body
        )
        insert_if_absent(session, [row])
    known[plain_sha256] = commitment
    return commitment


def commitment_of(salt: bytes, canonical_body: bytes) -> str:
    """64 hex digits that an entry carries instead of the body."""
    return hashlib.sha256(salt + canonical_body).hexdigest()


def pseudonym(commitment: str) -> str:
    """What is shown of somebody who was erased: the same word for the same commitment."""
    return f"erased:{commitment[:16]}"


def opened(session: Session, commitments: Iterable[str | None]) -> dict[str, CustodyIdentity]:
    """The rows that open these commitments; erased ones are missing."""
    wanted = sorted({commitment for commitment in commitments if commitment is not None})
    found: dict[str, CustodyIdentity] = {}
    for start in range(0, len(wanted), _BATCH):
        some = col(CustodyIdentity.commitment).in_(wanted[start : start + _BATCH])
        found |= {row.commitment: row for row in session.exec(select(CustodyIdentity).where(some))}
    return found


def erase(session: Session, principal: str) -> Sequence[str]:
    """Forget who a principal was, in every event; returns the commitments that nothing opens any more."""
    rows = session.exec(select(CustodyIdentity.commitment).where(CustodyIdentity.principal == principal)).all()
    session.connection().execute(delete(CustodyIdentity).where(col(CustodyIdentity.principal) == principal))
    return rows
