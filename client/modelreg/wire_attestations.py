"""What travels about attestations: signed statements in, signed statements out."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from modelreg.wire import AttestationText, Wire


class AttestationRequest(Wire):
    """A signed statement about an artifact: a bundle as JSON text."""

    bundle: AttestationText


class AttestationInfo(Wire):
    """A statement as it is recorded. Whoever relies on it verifies `bundle`; the rest is what the registry says of it."""

    kind: str
    statement: str  # sha256:… of the payload
    bundle: str
    authority: str
    identity: str
    signed_at: datetime | None
    added_at: datetime
    added_by: str
    event: int


class Attestations(Wire):
    """Statements about one artifact, oldest first; pass `next_after` as `after` for the next page."""

    artifact: str
    attestations: Annotated[list[AttestationInfo], Field(max_length=10_000)]
    next_after: int | None = None
