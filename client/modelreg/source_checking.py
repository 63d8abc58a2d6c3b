"""source check: does a source still serve what was imported from it? Asks for digests, not for the files.

unchanged     every file is declared as it was imported
drift         some are not, are gone, or are new; both digests are told
gone          the source, or the revision, is not there any more
unreachable   it did not answer, did not let us in, or cannot say without sending everything
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from modelreg import attestations, hashing, provenance
from modelreg.api import Api
from modelreg.attestations import Kind
from modelreg.bucket import Bucket
from modelreg.digests import Digest, sha256_of
from modelreg.errors import NotFound, Unauthenticated, Unreachable
from modelreg.hub import Hub
from modelreg.outside import MAX_ANSWER_BYTES, Outside
from modelreg.outside_files import FileUrl
from modelreg.provenance import Import
from modelreg.sources import (
    ETAG,
    GIT_SHA1,
    SHA256,
    BucketSource,
    FolderSource,
    HubSource,
    RemoteFile,
    UrlSource,
    parse_source,
)
from modelreg.trees import LEFT_OUT
from modelreg.trust import TrustPolicy

MAX_FILES_TOLD = 100


class Result(StrEnum):
    """What the source answers."""

    UNCHANGED = "unchanged"
    DRIFT = "drift"
    GONE = "gone"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Difference:
    """A file that is not as it was imported. Digests are `algorithm:value`; None is no file."""

    path: str
    imported: str | None
    found: str | None


@dataclass(frozen=True)
class Checked:
    """One answer. `why` says more where there is no difference to tell."""

    source: str
    revision: str
    result: Result
    differences: tuple[Difference, ...] = ()
    why: str | None = None

    def predicate(self, checked_at: datetime) -> dict[str, Any]:
        """The predicate of the statement about it; at most `MAX_FILES_TOLD` files, and how many there are."""
        return {
            "checked_at": checked_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "source": self.source,
            "revision": self.revision,
            "result": self.result.value,
            "files": [vars(difference) for difference in self.differences[:MAX_FILES_TOLD]],
            "differing": len(self.differences),
        }


def imports_of(api: Api, policy: TrustPolicy, repository: str, artifact: Digest, now: datetime) -> list[Import]:
    """Where an artifact was imported from, by verified provenance statements: each source and revision once.

    Raises:
        Untrusted: a statement that the registry has does not hold.
        NotFound: the artifact is not here.
    """
    found: dict[tuple[str, str], Import] = {}
    for row in api.attestations(repository, artifact, Kind.PROVENANCE.value).attestations:
        verified = attestations.verify(
            row.bundle.encode(), policy=policy, repository=repository, now=now, subject=artifact, kind=Kind.PROVENANCE
        )
        made = provenance.read(verified.attestation.predicate)
        if isinstance(made, Import):
            found[made.source, made.revision] = made
    return list(found.values())


def check(made: Import, outside: Outside, endpoint: str) -> Checked:
    """Ask the source of an import what it serves now. A source that cannot be asked is an answer, not an error."""
    try:
        found = _ask(made, outside, endpoint)
    except NotFound as error:
        return Checked(made.source, made.revision, Result.GONE, why=error.detail)
    except (Unreachable, Unauthenticated) as error:
        return Checked(made.source, made.revision, Result.UNREACHABLE, why=error.detail)
    imported = {file.path: file for file in made.files}
    differences = []
    for path in sorted(imported.keys() | found.keys()):
        before, now = imported.get(path), found.get(path)
        known = {**before.upstream, SHA256: before.sha256} if before is not None else {}
        shared = next(
            (name for name in (SHA256, GIT_SHA1, ETAG) if now is not None and name in known and name in now), None
        )
        if shared is None or (now is not None and known[shared] != now[shared]):
            differences.append(Difference(path, _text(known, shared), _text(now or {}, shared)))
    return Checked(made.source, made.revision, Result.DRIFT if differences else Result.UNCHANGED, tuple(differences))


def _text(declared: Mapping[str, str], name: str | None) -> str | None:
    name = name or next((known for known in (SHA256, GIT_SHA1, ETAG) if known in declared), None)
    return f"{name}:{declared[name]}" if name is not None else None


def _ask(made: Import, outside: Outside, endpoint: str) -> dict[str, Mapping[str, str]]:
    """What the source declares now, by path."""
    source = parse_source(made.source)
    match source:
        case HubSource():
            files = Hub(outside, endpoint, source).tree(made.revision)
        case UrlSource():
            files = [_file_behind(made, outside, source)]
        case FolderSource():
            entries = hashing.hash_tree(source.path, left_out=LEFT_OUT)
            files = [RemoteFile(entry.path, entry.size, "", {SHA256: entry.sha256}) for entry in entries]
        case BucketSource():
            files = Bucket(source, 1).listed()
    return {file.path: file.declared for file in files if file.path.split("/")[0] not in LEFT_OUT}


def _file_behind(made: Import, outside: Outside, source: UrlSource) -> RemoteFile:
    """A file behind a URL. A small one is measured; of a big one the validator tells whether it changed."""
    file = FileUrl(outside, source).resolve().files[0]
    if file.size <= MAX_ANSWER_BYTES:
        raw = outside.read(source.url)[1]
        return RemoteFile(file.path, len(raw), source.url, {SHA256: sha256_of(raw).hex})
    if ETAG not in file.declared or not any(ETAG in before.upstream for before in made.files):
        raise Unreachable(
            f"{source.url} has {file.size} bytes and no validator: whether it changed takes another import to tell"
        )
    return file
