"""What travels of the inventory (API v1, see `wire`): every artifact in every repository that the caller may read."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from modelreg.classification import Classification
from modelreg.wire import ArtifactDigest, PlaceName, RepositoryName, TagName, Wire

MAX_ROWS = 1000  # of one answer


class LiveLoads(Wire):
    """Loads that are not known to have ended: surely running, silent for too long, and such as never promised to say."""

    running: int
    stale: int
    unknown: int


class InventoryRow(Wire):
    """An artifact in a repository. What is null is not recorded; `live_loads` is null also for who may not audit it.

    `owner` is who published it; `classification` the effective class; `environments` are those it is promoted to now.
    """

    repository: RepositoryName
    artifact: ArtifactDigest
    tags: list[TagName]
    owner: str
    published_at: datetime
    size_bytes: int
    files: int
    classification: Classification | None
    state: Literal["active", "quarantined", "revoked"]
    state_reason: str | None
    environments: list[PlaceName]
    live_loads: LiveLoads | None


class Inventory(Wire):
    """A page, in the order of publication; pass `next_after` as `after` for the next one. A page may be empty."""

    rows: Annotated[list[InventoryRow], Field(max_length=MAX_ROWS)]
    next_after: int | None
