"""What every blob store promises. An adapter's tests subclass `StorageSuite` and provide the fixture `reopen`.

`reopen()` gives a new store object on the same bytes each time, as after a restart of the server.
"""

import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelreg.errors import BlobMissing, Conflict, Invalid
from modelreg_server.storage import Upload, blob_key

PART = 5 * 1024 * 1024  # the least that S3 takes in any part but the last
HEX = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
SIZES = {"empty": 0, "one byte": 1, "part-1": PART - 1, "part": PART, "part+1": PART + 1, "three parts": 2 * PART + 77}


def new_key(upload_id=None):
    return blob_key(HEX, upload_id or str(uuid.uuid4()))


def part_of(data, upload, number):
    start = (number - 1) * upload.part_bytes
    return data[start : start + upload.part_size_bytes(number)]


def in_blocks(data, block_bytes=100_000):
    return (data[start : start + block_bytes] for start in range(0, len(data), block_bytes))


def write_parts(store, upload, data, numbers=None):
    for number in range(1, upload.part_count + 1) if numbers is None else numbers:
        store.write_part(upload, number, in_blocks(part_of(data, upload, number)))


def put(store, data, part_bytes=PART):
    upload = store.start(new_key(), len(data), part_bytes)
    write_parts(store, upload, data)
    store.finish(upload)
    return upload


def content(store, key, size_bytes):
    return b"".join(store.read(key, 0, size_bytes))


def assert_absent(store, key, size_bytes=1):
    with pytest.raises(BlobMissing):
        content(store, key, size_bytes)


class StorageSuite:
    @pytest.fixture
    def store(self, reopen):
        return reopen()

    @pytest.mark.parametrize("size_bytes", SIZES.values(), ids=SIZES.keys())
    def test_what_was_written_is_read_back(self, store, size_bytes):
        data = os.urandom(size_bytes)

        upload = put(store, data)

        assert content(store, upload.key, size_bytes) == data

    def test_parts_may_come_out_of_order_and_in_parallel(self, store):
        data = os.urandom(3 * PART + 5)
        upload = store.start(new_key(), len(data), PART)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: write_parts(store, upload, data, [number]), [4, 2, 3, 1]))
        store.finish(upload)

        assert content(store, upload.key, len(data)) == data

    def test_a_range_is_read_exactly_and_in_blocks_of_at_most_one_mebibyte(self, store):
        data = os.urandom(PART + 1000)
        key = put(store, data).key

        for start, stop in [(0, 1), (PART - 3, PART + 3), (10, 10), (len(data) - 1, len(data)), (7, 3_000_000)]:
            blocks = list(store.read(key, start, stop))

            assert b"".join(blocks) == data[start:stop]
            assert max(map(len, blocks), default=0) <= 1024 * 1024

    def test_a_reader_may_stop_in_the_middle(self, store):
        data = os.urandom(PART)
        key = put(store, data).key

        blocks = store.read(key, 0, PART)
        first = next(blocks)
        blocks.close()

        assert data.startswith(first)

    def test_nothing_can_be_read_before_finish(self, store):
        upload = store.start(new_key(), 3, PART)
        write_parts(store, upload, b"abc")

        assert_absent(store, upload.key, 3)

    @pytest.mark.parametrize("wrong", [b"", b"ab", b"abcd", b"abcdef" * 1_000_000], ids=len)
    def test_a_part_of_the_wrong_length_is_refused_and_does_not_count(self, store, wrong):
        upload = store.start(new_key(), 3, PART)

        with pytest.raises(Invalid):
            store.write_part(upload, 1, in_blocks(wrong))

        assert store.written_parts(upload) == frozenset()
        with pytest.raises(Conflict):
            store.finish(upload)
        assert_absent(store, upload.key)

    def test_a_part_that_is_too_long_does_not_reach_its_neighbour(self, store):
        data = os.urandom(2 * PART)
        upload = store.start(new_key(), len(data), PART)
        write_parts(store, upload, data, [2])

        with pytest.raises(Invalid):
            store.write_part(upload, 1, in_blocks(b"x" * (PART + 10)))
        assert store.written_parts(upload) == {2}
        write_parts(store, upload, data, [1])
        store.finish(upload)

        assert content(store, upload.key, len(data)) == data

    def test_a_body_that_never_ends_is_not_read_to_its_end(self, store):
        upload = store.start(new_key(), 3, PART)
        taken = 0

        def endless():
            nonlocal taken
            while True:
                taken += 1
                yield b"x"

        with pytest.raises(Invalid):
            store.write_part(upload, 1, endless())

        assert taken <= 4

    def test_a_body_that_breaks_off_does_not_count_and_its_own_error_comes_through(self, store):
        upload = store.start(new_key(), 3, PART)

        def broken():
            yield b"ab"
            raise ConnectionResetError("the client went away")

        with pytest.raises(ConnectionResetError):
            store.write_part(upload, 1, broken())

        assert store.written_parts(upload) == frozenset()

    @pytest.mark.parametrize("number", [-1, 0, 2, 10_001])
    @pytest.mark.parametrize("size_bytes", [0, 3, PART])
    def test_a_part_that_the_upload_does_not_have_is_refused(self, store, number, size_bytes):
        upload = store.start(new_key(), size_bytes, PART)

        for body in (b"", b"abc"):
            with pytest.raises(Invalid):
                store.write_part(upload, number, [body])

    def test_finish_with_missing_parts_lists_them(self, store):
        data = os.urandom(3 * PART + 1)
        upload = store.start(new_key(), len(data), PART)
        write_parts(store, upload, data, [3])

        with pytest.raises(Conflict) as refusal:
            store.finish(upload)

        assert refusal.value.facts["missing"] == [1, 2, 4]
        assert_absent(store, upload.key)

    def test_finish_twice_changes_nothing(self, store):
        data = os.urandom(PART + 1)
        upload = put(store, data)

        store.finish(upload)

        assert content(store, upload.key, len(data)) == data
        assert store.written_parts(upload) == {1, 2}

    @pytest.mark.parametrize("size_bytes", [0, 1, PART + 1])
    def test_finish_by_several_at_once_finishes_once(self, reopen, size_bytes):
        data = os.urandom(size_bytes)
        upload = reopen().start(new_key(), size_bytes, PART)
        write_parts(reopen(), upload, data)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda store: store.finish(upload), [reopen() for _ in range(4)]))

        assert content(reopen(), upload.key, size_bytes) == data

    def test_an_upload_resumes_after_a_restart_from_the_parts_that_are_written(self, reopen):
        data = os.urandom(2 * PART + 9)
        upload = reopen().start(new_key(), len(data), PART)
        write_parts(reopen(), upload, data, [1, 3])
        store = reopen()

        missing = {1, 2, 3} - store.written_parts(upload)
        write_parts(store, upload, data, sorted(missing))
        reopen().finish(upload)

        assert missing == {2}
        assert content(reopen(), upload.key, len(data)) == data
        assert reopen().written_parts(upload) == {1, 2, 3}

    @pytest.mark.parametrize("size_bytes", [3, PART + 3])
    def test_a_part_can_be_replaced_before_finish(self, store, size_bytes):
        data = os.urandom(size_bytes)
        upload = store.start(new_key(), len(data), PART)
        write_parts(store, upload, bytes(size_bytes))

        write_parts(store, upload, data)
        store.finish(upload)

        assert content(store, upload.key, len(data)) == data

    def test_a_replacement_that_fails_leaves_the_old_part_or_none(self, store):
        data = os.urandom(PART)
        upload = store.start(new_key(), PART, PART)
        write_parts(store, upload, data)

        with pytest.raises(Invalid):
            store.write_part(upload, 1, in_blocks(b"x" * (PART - 1)))

        if store.written_parts(upload):
            store.finish(upload)
            assert content(store, upload.key, PART) == data

    @pytest.mark.parametrize("size_bytes", [3, PART + 3])
    def test_a_part_that_arrives_after_finish_is_refused_and_changes_nothing(self, store, size_bytes):
        data = os.urandom(size_bytes)
        upload = put(store, data)

        with pytest.raises(Conflict):
            write_parts(store, upload, bytes(size_bytes))

        assert content(store, upload.key, len(data)) == data

    def test_a_part_that_stalls_over_finish_holds_nobody_up_and_changes_nothing(self, store):
        data = os.urandom(2 * PART)
        upload = store.start(new_key(), len(data), PART)
        write_parts(store, upload, data)
        stalled, go_on = threading.Event(), threading.Event()

        def stalling():
            stalled.set()
            assert go_on.wait(30)
            yield bytes(PART)

        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(store.write_part, upload, 2, stalling())
            assert stalled.wait(30)
            store.finish(upload)
            go_on.set()
            refusal = late.exception(30)

        assert isinstance(refusal, Conflict)
        assert content(store, upload.key, len(data)) == data

    def test_a_key_is_the_one_that_was_asked_for(self, store):
        key = new_key()

        assert store.start(key, 3, PART).key == key

    def test_uploads_of_the_same_digest_do_not_meet(self, store):
        versions = [os.urandom(PART + number) for number in range(4)]

        with ThreadPoolExecutor(4) as pool:
            uploads = list(pool.map(lambda data: put(store, data), versions))
        store.discard(uploads[0])

        assert_absent(store, uploads[0].key)
        for upload, data in zip(uploads[1:], versions[1:], strict=True):
            assert content(store, upload.key, len(data)) == data

    @pytest.mark.parametrize("stage", ["started", "some parts", "all parts", "finished"])
    def test_discard_removes_everything_at_every_stage(self, store, stage):
        data = os.urandom(PART + 1)
        upload = store.start(new_key(), len(data), PART)
        write_parts(store, upload, data, {"started": [], "some parts": [2]}.get(stage))
        if stage == "finished":
            store.finish(upload)

        store.discard(upload)
        store.discard(upload)

        assert store.written_parts(upload) == frozenset()
        assert_absent(store, upload.key)
        with pytest.raises(Conflict):
            store.finish(upload)
        with pytest.raises(Conflict):
            write_parts(store, upload, data, [1])

    @pytest.mark.parametrize(
        "key",
        [
            "../outside",
            "blobs/../../outside",
            "/etc/passwd",
            "blobs//x",
            "blobs/./x",
            "",
            "a\0b",
            "a\\..\\b",
            "blobs/x/",
        ],
    )
    def test_a_key_that_could_lead_out_is_refused_everywhere(self, store, key):
        upload = Upload(key=key, size_bytes=1, part_bytes=PART, token="")

        for attempt in (
            lambda: store.start(key, 1, PART),
            lambda: store.write_part(upload, 1, [b"x"]),
            lambda: store.written_parts(upload),
            lambda: store.finish(upload),
            lambda: list(store.read(key, 0, 1)),
            lambda: store.discard(upload),
        ):
            with pytest.raises(Invalid):
                attempt()

    @pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 0), (5, 10)])
    def test_reading_an_absent_blob_says_that_it_is_lost(self, store, start, stop):
        with pytest.raises(BlobMissing):
            list(store.read(new_key(), start, stop))

    @pytest.mark.parametrize(("start", "stop"), [(0, 11), (5, 2_000_000), (10, 11), (50, 60)])
    def test_reading_past_the_end_says_that_the_blob_is_cut_short(self, store, start, stop):
        key = put(store, b"0123456789").key

        with pytest.raises(BlobMissing):
            list(store.read(key, start, stop))
