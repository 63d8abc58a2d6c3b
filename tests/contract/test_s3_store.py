"""The S3 store keeps every promise of the suite, against a real server, and its presigned requests are tight."""

import time
import traceback
import uuid

import pytest
import urllib3

from contract.log_store_suite import LogStoreSuite
from contract.storage_suite import PART, StorageSuite, content, new_key, put, write_parts
from modelreg.errors import Misconfigured, StorageUnavailable
from modelreg_server.storage.s3 import S3Store

pytestmark = pytest.mark.s3


@pytest.fixture(scope="session")
def settings(s3_server):
    return {
        "bucket": s3_server.make_bucket(f"test-{uuid.uuid4().hex}"),
        "endpoint_url": s3_server.endpoint,
        "region": s3_server.region,
        "access_key_id": s3_server.access_key,
        "secret_access_key": s3_server.secret_key,
    }


@pytest.fixture
def reopen(settings):
    return lambda: S3Store(**settings)


class TestS3Store(StorageSuite):
    pass


class TestS3LogStore(LogStoreSuite):
    pass


@pytest.fixture
def http():
    with urllib3.PoolManager(retries=False) as pool:
        yield pool


def send(http, request, body=None, url=None, **headers):
    answer = http.request(request.method, url or request.url, body=body, headers=request.headers | headers)
    return answer.status, answer.data


def assert_keeps_secrets(error, settings):
    text = "".join(traceback.format_exception(error)) + repr(getattr(error, "facts", ""))

    for secret in ("http://", "X-Amz", "Signature=", "uploadId", settings["secret_access_key"]):
        assert secret not in text


@pytest.mark.parametrize("size_bytes", [0, 1, PART + 1])
def test_presigned_requests_carry_a_blob_both_ways_through_plain_http(s3_store, http, size_bytes):
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    data = data[:size_bytes]
    upload = s3_store.start(new_key(), size_bytes, PART)

    for number in range(1, upload.part_count + 1):
        body = data[(number - 1) * PART : number * PART]
        assert send(http, s3_store.presign_part(upload, number), body)[0] == 200
    assert s3_store.written_parts(upload) == frozenset(range(1, upload.part_count + 1))
    s3_store.finish(upload)

    read = s3_store.presign_read(upload.key)
    assert send(http, read) == (200, data)
    if size_bytes > 1:
        assert send(http, read, Range="bytes=1-3") == (206, data[1:4])


def test_presigned_requests_are_sigv4_sign_the_length_and_live_a_minute_at_most(s3_store, settings):
    upload = s3_store.start(new_key(), PART + 1, PART)
    part, read = s3_store.presign_part(upload, 2), s3_store.presign_read(upload.key)

    for request in (part, read):
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in request.url
        assert f"X-Amz-Expires={request.expires_in_seconds}" in request.url
        assert request.expires_in_seconds <= 60
    assert "X-Amz-SignedHeaders=content-length" in part.url
    assert part.headers == {"Content-Length": "1"}
    with pytest.raises(Misconfigured):
        S3Store(**settings, presign_seconds=61)


@pytest.mark.parametrize("size_bytes", [0, 10, PART + 10])
def test_a_presigned_part_of_another_length_is_refused(s3_store, http, size_bytes):
    upload = s3_store.start(new_key(), size_bytes, PART)
    number = upload.part_count
    expected_bytes = upload.part_size_bytes(number)
    request = s3_store.presign_part(upload, number)

    for wrong_bytes in {max(0, expected_bytes - 1), expected_bytes + 1, PART} - {expected_bytes}:
        status, _answer = send(http, request, b"x" * wrong_bytes, **{"Content-Length": str(wrong_bytes)})
        assert status == 403

    assert number not in s3_store.written_parts(upload)


def test_altered_presigned_requests_are_refused(s3_store, http):
    data = b"0123456789"
    upload = s3_store.start(new_key(), 2 * PART, PART)
    other = put(s3_store, data)
    part, read = s3_store.presign_part(upload, 1), s3_store.presign_read(upload.key)

    altered = [
        (part, part.url.replace("partNumber=1", "partNumber=2"), bytes(PART)),
        (part, part.url.replace(upload.key, other.key), bytes(PART)),
        (read, read.url.replace(upload.key, other.key), None),
        (read, read.url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), None),
        (read, read.url.partition("?")[0].replace(upload.key, other.key), None),
    ]
    for request, url, body in altered:
        assert url != request.url
        status, answer = send(http, request, body, url=url)
        assert status in {400, 403}
        assert data not in answer

    assert s3_store.written_parts(upload) == frozenset()


def test_expired_presigned_requests_are_refused(settings, http):
    store = S3Store(**settings, presign_seconds=1)
    upload = store.start(new_key(), 3, PART)
    part, read = store.presign_part(upload, 1), store.presign_read(put(store, b"abc").key)

    time.sleep(2.5)

    assert send(http, part, b"abc")[0] == 403
    assert send(http, read)[0] == 403


@pytest.mark.parametrize("size_bytes", [3, PART + 3])
def test_a_presigned_part_used_again_after_finish_never_changes_what_is_read(s3_store, http, size_bytes):
    upload = s3_store.start(new_key(), size_bytes, PART)
    write_parts(s3_store, upload, b"g" * size_bytes)
    number = upload.part_count
    request = s3_store.presign_part(upload, number)
    s3_store.finish(upload)

    send(http, request, b"b" * upload.part_size_bytes(number))

    # S3 documents NoSuchUpload; Swift takes the part, and then refuses to read a blob whose part is not the one it joined.
    try:
        assert content(s3_store, upload.key, size_bytes) == b"g" * size_bytes
    except StorageUnavailable as refusal:
        print(refusal)


def test_a_finish_whose_answer_was_lost_is_finished_by_the_next(s3_store, s3_server):
    upload = s3_store.start(new_key(), 3, PART)
    write_parts(s3_store, upload, b"abc")
    place = {"Bucket": s3_store._bucket, "Key": upload.key, "UploadId": upload.token}
    part = s3_server.client().list_parts(**place)["Parts"][0]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3_server.client().complete_multipart_upload(**place, MultipartUpload=parts)

    s3_store.finish(upload)

    assert content(s3_store, upload.key, 3) == b"abc"


def test_check_accepts_a_bucket_that_is_there(s3_store):
    s3_store.check()


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"bucket": "not-there"}, "create the bucket"),
        ({"secret_access_key": "wrong"}, "its secret"),
        ({"access_key_id": "nobody:here"}, "access key"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "check the endpoint"),
        ({"endpoint_url": "not a url"}, "check endpoint"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_check_says_what_to_do_about_wrong_settings(settings, changed, advice):
    with pytest.raises(Misconfigured, match=advice) as refusal:
        S3Store(**settings | changed).check()

    assert_keeps_secrets(refusal.value, settings)


@pytest.mark.parametrize("changed", [{"endpoint_url": "http://127.0.0.1:9"}, {"secret_access_key": "wrong"}], ids=str)
def test_a_store_that_does_not_answer_is_unavailable_and_no_text_holds_its_address(settings, changed):
    good, bad = S3Store(**settings), S3Store(**settings | changed)
    upload = good.start(new_key(), 3, PART)

    for attempt in (
        lambda: bad.start(new_key(), 3, PART),
        lambda: bad.write_part(upload, 1, [b"abc"]),
        lambda: bad.written_parts(upload),
        lambda: bad.finish(upload),
        lambda: list(bad.read(upload.key, 0, 3)),
        lambda: bad.discard(upload),
    ):
        with pytest.raises(StorageUnavailable) as refusal:
            attempt()
        assert_keeps_secrets(refusal.value, settings)
