"""Where an import comes from: what a user types, what was found there, and the port that each kind of source implements.

hf://org/name[@revision]      a hub; the revision becomes a commit before anything is fetched
https://host/path/file        one file; its revision is the digest of what was received
file:///folder                a folder on this machine; its revision is the artifact's digest
s3://bucket[/prefix]          a bucket, with the credentials of the AWS command line (the extra `kms`)
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from modelreg import manifests
from modelreg.errors import Invalid, ManifestInvalid, NotFound, Unreachable
from modelreg.provenance import MAX_DEPENDENCIES
from modelreg.trees import LEFT_OUT, SIGNATURE_FILE

DEFAULT_REVISION = "main"
MAX_SOURCE_CHARS = 1000  # it goes into events
SHA256, GIT_SHA1, ETAG = "sha256", "git-sha1", "etag"  # what a source declares of a file; the last says only "the same"
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)


@dataclass(frozen=True)
class HubSource:
    """A model of a hub; `revision` is a branch, a tag or a commit."""

    name: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        return f"hf://{self.name}"


@dataclass(frozen=True)
class UrlSource:
    """One file behind a URL, which is read further by `outside_urls`."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class FolderSource:
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return self.path.as_uri()


@dataclass(frozen=True)
class BucketSource:
    """What lies in a bucket below a prefix, which is empty or ends in `/`."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


Source = HubSource | UrlSource | FolderSource | BucketSource


def parse_source(untrusted_text: str) -> Source:
    """Read a source.

    Raises:
        Invalid: none of the forms above.
    """
    if len(untrusted_text) > MAX_SOURCE_CHARS or not untrusted_text.isprintable():
        raise _invalid(f"is longer than {MAX_SOURCE_CHARS} characters, or holds some that cannot be printed")
    scheme, colon, rest = untrusted_text.partition("://")
    match scheme if colon else None:
        case "hf":
            return _hub(rest)
        case "https" | "http":
            # A query may hold a credential, and the source is recorded and asked again by `source check`.
            if "?" in rest:
                raise _invalid("has a query, which may hold a credential; name the file without one, and give a token")
            return UrlSource(untrusted_text)
        case "file":
            return _folder(untrusted_text)
        case "s3":
            return _bucket(rest)
        case "oci":
            raise _invalid(
                "is an OCI registry, which import does not read; fetch it, and import the folder as file:///…"
            )
    raise _invalid("is none; write hf://org/name[@revision], https://host/file, file:///folder or s3://bucket/prefix")


def _hub(rest: str) -> HubSource:
    name, at, revision = rest.partition("@")
    if not _HUB_NAME.fullmatch(name) or ".." in name or "--" in name:
        raise _invalid("names no model of a hub; write hf://org/name[@revision]")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _invalid("names no revision; write a branch, a tag or a commit of 40 hex digits after the @")
    return HubSource(name, revision if at else DEFAULT_REVISION)


def _folder(text: str) -> FolderSource:
    try:
        parts = urlsplit(text)
    except ValueError:  # such as half an IPv6 address
        raise _invalid("names no folder of this machine; write file:///absolute/path") from None
    path = Path(unquote(parts.path))
    if parts.netloc or parts.query or parts.fragment or not path.is_absolute() or ".." in path.parts:
        raise _invalid("names no folder of this machine; write file:///absolute/path")
    return FolderSource(path)


def _bucket(rest: str) -> BucketSource:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise _invalid("names no bucket; write s3://bucket/prefix")
    return BucketSource(bucket, f"{prefix.rstrip('/')}/" if prefix else "")


def _invalid(why: str) -> Invalid:
    return Invalid(f"the source {why}", field="source")  # without the text: it may hold a credential


@dataclass(frozen=True)
class RemoteFile:
    """A file as the source describes it.

    `declared` maps `SHA256`, `GIT_SHA1` (of the git blob) or `ETAG` to what the source says. `etag` is a strong validator
    that every answer must carry. Without `ranged` it comes in one piece, from the start.
    """

    path: str
    size: int
    uri: str
    declared: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    ranged: bool = True


@dataclass(frozen=True)
class Resolved:
    """What is to be fetched. `revision` cannot move; None where it follows from the bytes.

    `name` is what an upstream's trust policy knows it by, if the source has names; `key` tells this state of the source
    from every other.
    """

    source: str
    revision: str | None
    files: tuple[RemoteFile, ...]
    key: str
    name: str | None = None
    licence: str | None = None
    left_out: tuple[str, ...] = ()


class Upstream(Protocol):
    """A source that files are fetched from. Both methods are called from any thread."""

    def resolve(self) -> Resolved:
        """Find the immutable revision, and what is in it.

        Raises:
            NotFound: the source is not there.
            Unauthenticated, Forbidden: it may not be read, or not be asked.
            Unreachable, Untrusted: it does not answer, or not sensibly.
        """
        ...

    def open_range(self, file: RemoteFile, start: int, stop: int) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes from `start` to `stop` of a file that was resolved, in blocks; it may end early or late.

        Raises:
            Transient: worth another try.
            ModelregError: as `resolve`.
        """
        ...


def wanted(files: Sequence[RemoteFile]) -> tuple[tuple[RemoteFile, ...], tuple[str, ...]]:
    """The files to fetch, and the names at the top that are never part of an artifact. The signature is fetched.

    Raises:
        NotFound: none is left.
        ManifestInvalid: a name that no artifact may hold: nothing was written yet, and nothing will be.
        Unreachable: more files, or bigger ones, than an artifact may have.
    """
    ours = tuple(file for file in files if file.path.split("/")[0] not in LEFT_OUT or file.path == SIGNATURE_FILE)
    if not any(file.path != SIGNATURE_FILE for file in ours):
        raise NotFound("the source holds no file of a model")
    if len(ours) > MAX_DEPENDENCIES:
        raise Unreachable(f"the source holds {len(ours)} files; at most {MAX_DEPENDENCIES} are imported at once")
    manifests.require_names([file.path for file in ours])
    for file in ours:
        if not 0 <= file.size <= manifests.MAX_FILE_BYTES:
            raise ManifestInvalid(f"{ascii(file.path)[1:-1]} is said to have {file.size} bytes")
    fetched = {file.path for file in ours}
    return ours, tuple(sorted({file.path.split("/")[0] for file in files} - {path.split("/")[0] for path in fetched}))
