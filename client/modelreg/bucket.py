"""Reading a folder of an S3-compatible bucket, with the credentials of boto3's own chain (environment, profile, role).

Needs the extra `kms`; imported when a bucket is asked. The address is AWS's or the one that the AWS configuration names
(AWS_ENDPOINT_URL), never one from a source's text. S3 declares no digest of a whole file that holds everywhere: its ETag
only tells that an object is the same, so every range is asked for on the condition of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modelreg.canonical import canonical_json
from modelreg.connections import Transient
from modelreg.digests import sha256_of
from modelreg.errors import Misconfigured, NotFound, Unauthenticated, Unreachable
from modelreg.provenance import MAX_DEPENDENCIES
from modelreg.sources import ETAG, BucketSource, RemoteFile, Resolved, wanted

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CONNECT_SECONDS = 10
READ_SECONDS = 60
TRIES = 3
_BLOCK_BYTES = 256 * 1024
_ABSENT = frozenset({"NoSuchBucket", "NoSuchKey", "404"})
_DENIED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401"}
)
_CHANGED = frozenset({"PreconditionFailed", "412"})


class Bucket:
    """What lies below a prefix. See `sources.Upstream`."""

    def __init__(self, source: BucketSource, connections_at_once: int) -> None:
        self._source = source
        self._connections = connections_at_once
        self._opened: S3Client | None = None

    def resolve(self) -> Resolved:
        """The objects as they are now; the revision is the digest of the list of their names, sizes and ETags."""
        files, left_out = wanted(self.listed())
        state = sha256_of(canonical_json([[file.path, file.size, file.etag] for file in files]))
        return Resolved(str(self._source), str(state), files, f"{self._source} {state}", left_out=left_out)

    def listed(self) -> list[RemoteFile]:
        """Every object below the prefix.

        Raises:
            NotFound: no such bucket, or nothing in it.
            Unauthenticated, Unreachable, Misconfigured: it cannot be asked.
        """
        found: list[RemoteFile] = []
        with self._told():
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._source.bucket, Prefix=self._source.prefix):
                for row in page.get("Contents", []):
                    path, etag = row["Key"].removeprefix(self._source.prefix), row["ETag"]
                    if path and not path.endswith("/"):  # some tools write an empty object for a folder
                        found.append(
                            RemoteFile(
                                path, row["Size"], f"s3://{self._source.bucket}/{row['Key']}", {ETAG: etag}, etag
                            )
                        )
                if len(found) > MAX_DEPENDENCIES:
                    raise Unreachable(f"{self._source} holds more than {MAX_DEPENDENCIES} objects")
        if not found:
            raise NotFound(f"{self._source} holds nothing")
        return found

    @contextmanager
    def open_range(self, file: RemoteFile, start: int, stop: int) -> Iterator[Iterator[bytes]]:
        """Bytes of an object, as long as it is the one that was listed."""
        with self._told(file):
            answer = self._client().get_object(
                Bucket=self._source.bucket,
                Key=self._source.prefix + file.path,
                Range=f"bytes={start}-{stop - 1}",
                IfMatch=file.etag or "",
            )
            body = answer["Body"]
            try:
                if answer.get("ContentRange") != f"bytes {start}-{stop - 1}/{file.size}":
                    raise Transient(f"{self._source} did not answer with the range that was asked for")
                yield body.iter_chunks(_BLOCK_BYTES)
            finally:
                body.close()

    def _client(self) -> "S3Client":
        if self._opened is None:
            try:
                import boto3  # noqa: PLC0415
                from botocore.config import Config  # noqa: PLC0415
            except ImportError:
                raise Misconfigured("an s3:// source needs boto3: pip install 'modelreg[kms]'") from None
            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": TRIES, "mode": "standard"},
                max_pool_connections=self._connections,
                proxies={},  # not the environment's
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            self._opened = boto3.Session().client("s3", config=config)
        return self._opened

    @contextmanager
    def _told(self, file: RemoteFile | None = None) -> Iterator[None]:
        """Say the library's failures with our errors. Its own texts may name request details, so they are not repeated."""
        where = file.uri if file is not None else str(self._source)
        self._client()  # first: without boto3 there is nothing to import below
        from botocore import exceptions  # noqa: PLC0415

        try:
            yield
        except exceptions.ClientError as error:
            code: Any = error.response.get("Error", {}).get("Code", "unknown")
            if code in _ABSENT:
                raise NotFound(f"{where} is not there") from None
            if code in _CHANGED:
                raise Unreachable(f"{where} changed while it was fetched; import again") from None
            if code in _DENIED:
                raise Unauthenticated(f"{where}: these credentials may not read it ({code})") from None
            raise Transient(f"{where} could not be read ({str(code)[:80]})") from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError):
            raise Unauthenticated(
                f"{where}: there are no credentials; give them as for the AWS command line (AWS_PROFILE, AWS_ACCESS_KEY_ID …)"
            ) from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
            raise Transient(f"{where} does not answer ({type(error).__name__})") from None
        except exceptions.BotoCoreError as error:
            raise Misconfigured(f"{where} cannot be asked: {type(error).__name__}") from None
