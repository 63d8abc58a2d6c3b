"""What travels about datasets: signed records in, records with their statements out."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from modelreg.wire import ArtifactDigest, AttestationText, RepositoryName, Wire

MAX_RECORDS = 1000  # of one answer


class DatasetRequest(Wire):
    """A signed dataset statement (a bundle as JSON text): register it, or say something new of it."""

    bundle: AttestationText


class DatasetInfo(Wire):
    """A record as it stands. Whoever relies on it verifies `bundle`; the rest is what the registry read in it.

    `current` is the newest of its digest. In a list `bundle` is null.
    """

    name: RepositoryName
    digest: ArtifactDigest
    owner: str
    classification: str
    lawful_basis: str
    residency: list[str]
    retention_until: datetime | None
    source: str | None
    statement: str
    bundle: str | None
    authority: str
    identity: str
    signed_at: datetime | None
    registered_at: datetime
    registered_by: str
    event: int
    current: bool


class Datasets(Wire):
    """Records, newest first, or one a dataset in a list by name; pass `next_after` as `after` for the next page."""

    datasets: Annotated[list[DatasetInfo], Field(max_length=MAX_RECORDS)]
    next_after: str | None = None
