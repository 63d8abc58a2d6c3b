"""Blobs in a bucket of an S3-compatible store.

Every blob but the empty one is a multipart upload, also of a single part: completing it is the only write to the key. A
part that arrives later is refused (NoSuchUpload, as S3 documents), or taken and the blob no longer served (Swift, which
checks every part's ETag as it reads); other bytes are never served. After a plain PUT they would be: a presigned URL
used again, or a request that stalled, replaces a blob that was measured, and S3's conditions do not stop it everywhere
(some stores ignore them, others race). The empty blob has nothing to replace: its upload has no token.

The bucket should expire incomplete multipart uploads (AbortIncompleteMultipartUpload): a server that dies between
`start` and its own commit leaves one, without parts. The server needs the rights to get, put and delete objects, to
list and abort multipart uploads, and to list the bucket: without the last, AWS calls an absent object forbidden.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from modelreg.errors import BlobMissing, Conflict, Misconfigured, StorageUnavailable
from modelreg_server.storage import PresignedRequest, Upload
from modelreg_server.storage.checks import MAX_LISTED, checked_key, checked_log_key, part_body, part_size_bytes

if TYPE_CHECKING:  # stubs, which only a developer has
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

BLOCK_BYTES = 1024 * 1024
MAX_PRESIGN_SECONDS = 60  # a presigned URL is a bearer secret
SPOOL_BYTES = 16 * 1024 * 1024  # memory per part on its way through the server; a longer part goes to a temporary file
CONNECT_SECONDS = 5
READ_SECONDS = 60  # also bounds one completion; S3 keeps that connection busy while it works
ATTEMPTS = 4

_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})  # "404": the answer to a HEAD has no body to name the code in


class S3Store:
    """A `BlobStore`, `LogStore` and `Presigner` in one bucket. Safe for many threads: a client is, a session is not."""

    def __init__(
        self,
        *,
        bucket: str,
        endpoint_url: str | None,
        region: str,
        access_key_id: str | None,
        secret_access_key: str | None,
        max_connections: int = 32,
        presign_seconds: int = MAX_PRESIGN_SECONDS,
    ) -> None:
        """Nothing is sent yet; `check` does.

        `endpoint_url` None means AWS; credentials None mean boto3's own chain (environment, profile, instance role).

        Raises:
            Misconfigured: a value that can never work.
        """
        if not 1 <= presign_seconds <= MAX_PRESIGN_SECONDS:
            raise Misconfigured(
                f"Presigned URLs live 1 to {MAX_PRESIGN_SECONDS} seconds, not {presign_seconds}.",
                setting="presign_seconds",
            )
        self._bucket = bucket
        self._presign_seconds = presign_seconds
        config = Config(
            signature_version="s3v4",  # boto3 may presign with version 2 by itself, which drops the signed headers
            # A store of one's own seldom has a DNS name per bucket; AWS wants one.
            s3={"addressing_style": "path" if endpoint_url else "virtual"},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            max_pool_connections=max_connections,
            # Ours are better, and older stores trip over these.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client: S3Client = boto3.session.Session().client(
                "s3",
                endpoint_url=endpoint_url,
                region_name=region,
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret_access_key,
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise Misconfigured(
                f"The S3 settings cannot be used ({type(error).__name__}): check endpoint, region and keys.",
                setting="endpoint_url",
            ) from None

    def check(self) -> None:
        """Ask for the bucket, once, at the server's start.

        Raises:
            Misconfigured: it cannot be reached with these settings; the message says which to look at.
        """
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            status, code = _answer(error)
            advice = {
                404: "create the bucket, or correct its name",
                403: "check the access key, its secret, its rights on the bucket, and this machine's clock",
                400: "check the access key, its secret and the region",
                301: "the bucket is in another region, correct the region",
            }.get(status, "see the store's log")
            raise Misconfigured(
                f"The store answers {status} for the bucket {self._bucket}: {advice}.", setting="bucket", error=code
            ) from None
        except BotoCoreError as error:
            raise Misconfigured(
                f"The bucket {self._bucket} cannot be asked for ({type(error).__name__}): check the endpoint, that it "
                "can be reached from this machine, and that there are credentials.",
                setting="endpoint_url",
            ) from None

    def start(self, key: str, size_bytes: int, part_bytes: int) -> Upload:
        """Open a multipart upload; for the empty blob there is nothing to open."""
        token = ""
        if size_bytes:
            with _storage("start an upload"):
                token = self._client.create_multipart_upload(
                    Bucket=self._bucket, Key=checked_key(key), ContentType="application/octet-stream"
                )["UploadId"]
        return Upload(key=key, size_bytes=size_bytes, part_bytes=part_bytes, token=token)

    def write_part(self, upload: Upload, number: int, body: Iterable[bytes]) -> None:
        """Take the whole part in, then send it, so that a wrong length or a lost client sends nothing.

        S3 wants the length and a hash before the first byte, and a retry wants to rewind: `SPOOL_BYTES` says where it
        waits meanwhile.

        Raises:
            Invalid: there is no such part, or the body is not as long as the part; nothing of it counts.
            Conflict: the upload is not open (finished or discarded).
        """
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            for block in part_body(upload, number, body):
                with _storage("keep a part"):
                    spool.write(block)
            if not upload.token:
                with _storage("write a blob"):
                    self._client.put_object(Bucket=self._bucket, Key=checked_key(upload.key), Body=b"", ContentLength=0)
                return
            closed = Conflict("The upload is not open any more: it was finished or discarded.")
            if self._is_there(upload):  # most stores would say so themselves; Swift would take the part
                raise closed
            try:
                with _storage("write a part", "NoSuchUpload"):
                    spool.seek(0)
                    self._client.upload_part(
                        Bucket=self._bucket,
                        Key=checked_key(upload.key),
                        UploadId=upload.token,
                        PartNumber=number,
                        Body=spool,
                        ContentLength=upload.part_size_bytes(number),
                    )
            except _Absent:
                raise closed from None

    def written_parts(self, upload: Upload) -> frozenset[int]:
        """The parts that the store has in full; all once the blob is there; none of an upload that was discarded."""
        try:
            return frozenset(self._part_tags(upload))
        except _Absent:
            return frozenset(range(1, upload.part_count + 1)) if self._is_there(upload) else frozenset()

    def finish(self, upload: Upload) -> None:
        """Complete the multipart upload; if it is gone, look whether an earlier try (its answer lost) completed it.

        Raises:
            Conflict: parts are missing (facts: `missing`).
        """
        everything = range(1, upload.part_count + 1)
        try:
            tags = self._part_tags(upload)
            missing = [number for number in everything if number not in tags]
            if not missing:
                parts: list[CompletedPartTypeDef] = [{"PartNumber": n, "ETag": tags[n]} for n in everything]
                with _storage("finish an upload", "NoSuchUpload"):
                    self._client.complete_multipart_upload(
                        Bucket=self._bucket,
                        Key=checked_key(upload.key),
                        UploadId=upload.token,
                        MultipartUpload={"Parts": parts},
                    )
                return
        except _Absent:
            if self._is_there(upload):
                return
            missing = list(everything)
        raise Conflict(f"{len(missing)} of {upload.part_count} parts are missing: send them.", missing=missing)

    def read(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Read a range. Nothing happens, nor fails, before the first block is asked for."""
        short = BlobMissing("The stored blob is cut short.", key=key, wanted_bytes=stop)
        try:
            if start >= stop:  # HTTP cannot ask for nothing, but what is lost must not look empty
                self._size_bytes(key)
                return
            with _storage("read a blob", *_ABSENT, "InvalidRange"):
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=checked_key(key), Range=f"bytes={start}-{stop - 1}"
                )
        except _Absent as absent:
            if absent.args == ("InvalidRange",):
                raise short from None
            raise BlobMissing("The store has no such blob.", key=key) from None
        with contextlib.closing(answer["Body"]) as body, _storage("read a blob"):
            sent = answer.get("ContentRange", "")
            if not sent.startswith(f"bytes {start}-{stop - 1}/"):
                raise short if sent.startswith(f"bytes {start}-") else _unavailable("read a blob", "RangeIgnored")
            while start < stop:
                block = body.read(min(BLOCK_BYTES, stop - start))
                if not block:
                    raise _unavailable("read a blob", "IncompleteRead")
                start += len(block)
                yield block

    def discard(self, upload: Upload) -> None:
        """Abort the upload and delete the blob.

        A part that is on its way right now may outlive this; the bucket's rule for incomplete uploads removes it.
        """
        if upload.token:
            # NoSuchKey: how Swift says that the upload was completed.
            with contextlib.suppress(_Absent), _storage("discard an upload", "NoSuchUpload", "NoSuchKey"):
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=checked_key(upload.key), UploadId=upload.token
                )
        with contextlib.suppress(_Absent), _storage("discard an upload", *_ABSENT):
            self._client.delete_object(Bucket=self._bucket, Key=checked_key(upload.key))

    def put_copy(self, key: str, data: bytes) -> None:
        """A plain PUT: copies of the log are small, and may be replaced."""
        with _storage("write a copy of the log"):
            self._client.put_object(
                Bucket=self._bucket,
                Key=checked_log_key(key),
                Body=data,
                ContentLength=len(data),
                ContentType="application/octet-stream",
            )

    def get_copy(self, key: str, max_bytes: int) -> bytes | None:
        """A plain GET, read no further than `max_bytes`."""
        try:
            with _storage("read a copy of the log", *_ABSENT):
                answer = self._client.get_object(Bucket=self._bucket, Key=checked_log_key(key))
        except _Absent:
            return None
        with contextlib.closing(answer["Body"]) as body, _storage("read a copy of the log"):
            if answer["ContentLength"] > max_bytes:
                return None
            data = body.read(max_bytes)
            if len(data) != answer["ContentLength"]:
                raise _unavailable("read a copy of the log", "IncompleteRead")
            return data

    def list_copies(self, folder: str, after: str = "") -> list[str]:
        """One page of the listing; what lies in deeper folders is left out."""
        prefix = checked_log_key(folder) + "/"
        with _storage("list copies of the log"):
            page = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=prefix, StartAfter=prefix + after, Delimiter="/", MaxKeys=MAX_LISTED
            )
        names = [item["Key"].removeprefix(prefix) for item in page.get("Contents", [])]
        return sorted(name for name in names if name > after)

    def remove_copy(self, key: str) -> None:
        """A plain DELETE; where the bucket keeps versions, an older one stays behind it."""
        with contextlib.suppress(_Absent), _storage("remove a copy of the log", *_ABSENT):
            self._client.delete_object(Bucket=self._bucket, Key=checked_log_key(key))

    def presign_part(self, upload: Upload, number: int) -> PresignedRequest:
        """A PUT of part `number` with its length signed, so that the URL is good for nothing longer or shorter."""
        size_bytes = part_size_bytes(upload, number)
        place: dict[str, str | int] = {
            "Bucket": self._bucket,
            "Key": checked_key(upload.key),
            "ContentLength": size_bytes,
        }
        if upload.token:
            url = self._presign("upload_part", place | {"UploadId": upload.token, "PartNumber": number})
        else:
            url = self._presign("put_object", place)
        return PresignedRequest("PUT", url, {"Content-Length": str(size_bytes)}, self._presign_seconds)

    def presign_read(self, key: str) -> PresignedRequest:
        """A GET of the blob. A `Range` header may be added, it is not part of the signature."""
        url = self._presign("get_object", {"Bucket": self._bucket, "Key": checked_key(key)})
        return PresignedRequest("GET", url, {}, self._presign_seconds)

    def _presign(self, operation: str, parameters: dict[str, str | int]) -> str:
        with _storage("sign a request"):
            url = self._client.generate_presigned_url(operation, Params=parameters, ExpiresIn=self._presign_seconds)
        query = parse_qs(urlsplit(url).query)
        signed = query.get("X-Amz-SignedHeaders", [""])[0].split(";")
        # Both depend on the library's version and on settings outside this file: look, rather than believe.
        if query.get("X-Amz-Algorithm") != ["AWS4-HMAC-SHA256"] or (
            "ContentLength" in parameters and "content-length" not in signed
        ):
            raise Misconfigured("boto3 does not sign the request's length with SigV4: install a newer one.")
        return url

    def _size_bytes(self, key: str) -> int:
        with _storage("look for a blob", *_ABSENT):
            return self._client.head_object(Bucket=self._bucket, Key=checked_key(key))["ContentLength"]

    def _is_there(self, upload: Upload) -> bool:
        try:
            return self._size_bytes(upload.key) == upload.size_bytes
        except _Absent:
            return False

    def _part_tags(self, upload: Upload) -> dict[int, str]:
        """ETags of the parts that have the right length.

        Raises:
            _Absent: no such upload is open.
        """
        if not upload.token:
            raise _Absent
        tags: dict[int, str] = {}
        with _storage("list the parts of an upload", "NoSuchUpload"):
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=checked_key(upload.key), UploadId=upload.token
            )
            for part in (part for page in pages for part in page.get("Parts", [])):
                number = part["PartNumber"]
                if number <= upload.part_count and part["Size"] == upload.part_size_bytes(number):
                    tags[number] = part["ETag"]
        return tags


class _Absent(Exception):  # no error: an answer, which each caller reads in its own way
    """What was asked for is not there. Its one argument is the store's code."""


@contextlib.contextmanager
def _storage(doing: str, *absent: str) -> Iterator[None]:
    """Turn what boto3 raises into `StorageUnavailable`, or into `_Absent` where the store's code is in `absent`.

    `from None`, and class names instead of texts: boto3's texts hold URLs, and a traceback prints causes too.
    """
    try:
        yield
    except ClientError as error:
        status, code = _answer(error)
        raise (_Absent(code) if code in absent else _unavailable(doing, code, status=status)) from None
    except (BotoCoreError, OSError) as error:
        raise _unavailable(doing, type(error).__name__) from None


def _answer(error: ClientError) -> tuple[int, str]:
    """HTTP status and error code; the rest of the answer is not ours to repeat."""
    response = error.response
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0), response.get("Error", {}).get("Code", "")


def _unavailable(doing: str, what: str, **facts: int) -> StorageUnavailable:
    return StorageUnavailable(f"The blob store could not {doing} ({what}): try again later.", error=what, **facts)
