"""What travels about recalls (API v1, see `wire`): recalling, asking, confirming, and files that changed on a host."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from modelreg.canonical import MAX_INTEGER
from modelreg.wire import ArtifactDigest, Line, RepositoryName, Wire, Word

MAX_CHECKED = 1000  # artifacts named in one question

RecallKind = Literal["quarantine", "revocation"]
HostState = Literal["running", "holding", "removed", "absent"]


def _one_line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("write one line of printable characters")
    return value


# The revocation list takes the same reasons (`trust.MAX_REASON_CHARS`).
RecallReason = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line)]


class RecallRequest(Wire):
    """Recall an artifact; with `cascade` also what was made from it. `dry_run` answers what would happen."""

    kind: RecallKind
    reason: RecallReason
    cascade: bool = False
    dry_run: bool = False


class ReleaseRequest(Wire):
    """Lift a quarantine."""

    reason: RecallReason


class RecallInfo(Wire):
    """A recall as it is recorded. `event` is the index of the event that began it."""

    id: str
    artifact: ArtifactDigest
    kind: RecallKind
    reason: str
    created_at: datetime
    created_by: str
    event: int
    lifted_at: datetime | None
    lifted_by: str | None


class RecalledArtifact(Wire):
    """What happened to one artifact. `artifact` is null where the caller may not see it; then `allowed` is false.

    `depth` counts derivations from the named artifact (0); `changed` is false where it was recalled like that already.
    """

    artifact: ArtifactDigest | None
    parent: ArtifactDigest | None
    relation: str | None
    grade: str | None
    depth: int
    repositories: list[str]
    changed: bool
    allowed: bool
    recall: RecallInfo | None


class Recalled(Wire):
    """Every artifact the request reached, the named one first."""

    dry_run: bool
    artifacts: list[RecalledArtifact]


class Released(Wire):
    """The quarantine that ended; `changed` is false where it had ended before."""

    recall: RecallInfo
    changed: bool


class Recalls(Wire):
    """A page of open recalls in the order of the log; pass `next_after` as `after` for the next one."""

    recalls: list[RecallInfo]
    next_after: int | None


class RecallCheck(Wire):
    """Ask what is recalled among the artifacts that this host holds. `host` is what it calls itself (claimed)."""

    artifacts: Annotated[list[ArtifactDigest], Field(default_factory=list, max_length=MAX_CHECKED)]
    host: Word | None = None


class OpenRecall(Wire):
    """An open recall, as a host hears of it."""

    id: str
    artifact: ArtifactDigest
    kind: RecallKind
    reason: str
    created_at: datetime


class RecallAnswer(Wire):
    """Of the artifacts named, those that are recalled; `expected`: all that the record says this host has not settled."""

    recalls: list[OpenRecall]
    expected: list[OpenRecall]


class ConfirmationRequest(Wire):
    """What a host did with a recalled artifact. `unseen_processes` could not be looked at, so may run it.

    `noticed_at` is the host's word for when; it may have waited for the registry since.
    """

    state: HostState
    host: Word
    processes: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    unseen_processes: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    noticed_at: AwareDatetime | None = None


class RecallHost(Wire):
    """One host: what the record says it has, what it said last, and whether that settles it.

    `exposure` is `running` (a load that has not ended), `loaded`, `received`, `unknown` (granted, and then nothing was
    heard) or `none` (it only spoke). `verified` is false where a client gave itself the name.
    """

    host: str
    verified: bool
    exposure: Literal["running", "loaded", "received", "unknown", "none"]
    running: int
    event: int | None
    event_at: datetime | None
    last_seen_at: datetime | None
    state: HostState | None
    confirmed_at: datetime | None
    settled: bool


class RecallStatus(Wire):
    """Hosts that have not confirmed come first. `complete` is false where there are more than one answer holds."""

    recall: RecallInfo
    as_of: datetime
    hosts: list[RecallHost]
    unsettled: int
    complete: bool


class AlterationReport(Wire):
    """Bytes on a host that are not what it was given: a `file` of its store, or what a `process` has mapped."""

    artifact: ArtifactDigest
    repository: RepositoryName
    host: Word
    where: Literal["file", "process"]
    what: Literal["changed", "replaced", "missing", "extra", "unreadable"]
    path: Line
    expected: Line = ""
    measured: Line = ""
    pid: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = None
    noticed_at: AwareDatetime | None = None
