"""What every store of the log's copies promises. An adapter's tests subclass `LogStoreSuite` and provide `reopen`."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelreg.errors import Invalid


class LogStoreSuite:
    @pytest.fixture
    def copies(self, reopen):
        return reopen()

    @pytest.fixture
    def folder(self):
        return f"log/test-{uuid.uuid4().hex}"

    @pytest.mark.parametrize("size_bytes", [0, 1, 8192, 2_000_000])
    def test_what_was_put_is_got_back_also_after_a_restart(self, reopen, folder, size_bytes):
        data = os.urandom(size_bytes)
        reopen().put_copy(f"{folder}/tile/entries/x001/067.p/112", data)
        assert reopen().get_copy(f"{folder}/tile/entries/x001/067.p/112", size_bytes) == data

    def test_what_is_not_there_is_none(self, copies, folder):
        assert copies.get_copy(f"{folder}/checkpoint", 10) is None
        copies.put_copy(f"{folder}/a", b"x")
        assert copies.get_copy(f"{folder}/a/b", 10) is None

    def test_an_object_over_the_limit_is_none(self, copies, folder):
        copies.put_copy(f"{folder}/a", bytes(11))
        assert copies.get_copy(f"{folder}/a", 10) is None
        assert copies.get_copy(f"{folder}/a", 11) == bytes(11)

    def test_a_key_may_be_written_again(self, copies, folder):
        copies.put_copy(f"{folder}/checkpoint", b"first, and longer")
        copies.put_copy(f"{folder}/checkpoint", b"second")
        assert copies.get_copy(f"{folder}/checkpoint", 100) == b"second"

    def test_writers_of_one_key_leave_the_object_of_one_of_them(self, copies, folder):
        versions = [bytes([number]) * 50_000 for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda data: copies.put_copy(f"{folder}/a", data), versions))
        assert copies.get_copy(f"{folder}/a", 50_000) in versions

    def test_a_list_has_the_objects_of_that_folder_in_order(self, copies, folder):
        assert copies.list_copies(f"{folder}/checkpoints") == []
        for name in ("0010", "0002", "0100"):
            copies.put_copy(f"{folder}/checkpoints/{name}", b"x")
        copies.put_copy(f"{folder}/checkpoints/0050/deeper", b"x")
        copies.put_copy(f"{folder}/checkpoints-of-another/0003", b"x")
        assert copies.list_copies(f"{folder}/checkpoints") == ["0002", "0010", "0100"]
        assert copies.list_copies(f"{folder}/checkpoints", "0002") == ["0010", "0100"]
        assert copies.list_copies(f"{folder}/checkpoints", "0100") == []

    def test_a_list_of_a_partial_tiles_folder(self, copies, folder):
        copies.put_copy(f"{folder}/tile/0/000.p/7", b"x")
        copies.put_copy(f"{folder}/tile/0/000", b"x")
        assert copies.list_copies(f"{folder}/tile/0/000.p") == ["7"]
        assert copies.list_copies(f"{folder}/tile/0") == ["000"]

    def test_a_removed_object_is_gone_and_removing_it_again_is_fine(self, copies, folder):
        copies.put_copy(f"{folder}/a", b"x")
        for _ in range(2):
            copies.remove_copy(f"{folder}/a")
            assert copies.get_copy(f"{folder}/a", 10) is None
        copies.remove_copy(f"{folder}/never/was")

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "log",
            "log/",
            "log//a",
            "log/../a",
            "log/.p/a",
            "log/a/..",
            "blobs/a",
            "/log/a",
            "log/a.b",
            "log/a\0",
            "log/a/",
        ],
    )
    def test_a_key_that_is_not_the_logs_is_refused_everywhere(self, copies, key):
        for attempt in (
            lambda: copies.put_copy(key, b""),
            lambda: copies.get_copy(key, 1),
            lambda: copies.list_copies(key),
            lambda: copies.remove_copy(key),
        ):
            with pytest.raises(Invalid):
                attempt()
