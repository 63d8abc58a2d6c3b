"""What travels about promotions: may this serve there, who said so, and since when not any more.

Facts, decision and verdict are texts and not objects: their digests are signed, so whoever verifies them needs the bytes.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from modelreg.wire import ArtifactDigest, Line, PlaceName, RepositoryName, Wire

MAX_LISTED = 1000


class PromotionRequest(Wire):
    """Ask that an artifact may serve in an environment. With `dry_run` nothing is recorded, and nothing signed."""

    environment: PlaceName
    dry_run: bool = False


class DemotionRequest(Wire):
    """Withdraw what allows it. The reason is for whoever is refused."""

    environment: PlaceName
    reason: Annotated[Line, Field(min_length=1)]


class PromotionInfo(Wire):
    """A recorded decision. `state` is `live` while it allows something, `withdrawn` once it did, `refused` if it never did."""

    id: int
    repository: RepositoryName
    artifact: ArtifactDigest
    environment: PlaceName
    state: Literal["live", "withdrawn", "refused"]
    verdict: str  # sha256:… of the signed statement
    policy: str
    created_at: datetime
    created_by: str
    event: int
    withdrawn_at: datetime | None
    withdrawn_by: str | None
    withdrawn_reason: str | None
    withdrawn_event: int | None


class PromotionAnswer(Wire):
    """A decision with what it was made of. `info` and `verdict` (a bundle) are null for a dry run, which proves nothing."""

    facts: str
    decision: str
    verdict: str | None
    info: PromotionInfo | None


class Demoted(Wire):
    """What was withdrawn; empty where nothing was live."""

    withdrawn: list[PromotionInfo]


class Promotions(Wire):
    """A page, newest first; pass `next_before` as `before` for the next one."""

    promotions: Annotated[list[PromotionInfo], Field(max_length=MAX_LISTED)]
    next_before: int | None
