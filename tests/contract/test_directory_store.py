"""The directory store keeps every promise of the suite, and leaves nothing behind."""

import os
import stat

import pytest

from contract.log_store_suite import LogStoreSuite
from contract.storage_suite import PART, StorageSuite, new_key, put, write_parts
from modelreg.errors import Conflict, StorageUnavailable
from modelreg_server.storage import blob_key
from modelreg_server.storage.directory import DirectoryStore


@pytest.fixture
def reopen(tmp_path):
    return lambda: DirectoryStore(tmp_path / "store")


class TestDirectoryStore(StorageSuite):
    pass


class TestDirectoryLogStore(LogStoreSuite):
    pass


def test_only_the_servers_user_can_look_at_files_and_folders(reopen, tmp_path):
    put(reopen(), os.urandom(PART + 1))
    write_parts(reopen(), reopen().start(new_key(), 1, PART), b"x")

    for path in (tmp_path / "store").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_finish_leaves_nothing_but_the_blob(reopen, tmp_path):
    upload = put(reopen(), os.urandom(PART + 1))

    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == [tmp_path / "store" / upload.key]
    assert not list((tmp_path / "store" / "uploads").iterdir())


def test_an_upload_id_is_used_once(reopen):
    upload = put(reopen(), b"abc")
    open_key = new_key()
    reopen().start(open_key, 3, PART)

    for key in (upload.key, open_key, blob_key("0" * 64, open_key.rpartition("/")[2])):
        with pytest.raises(Conflict):
            reopen().start(key, 3, PART)


def test_the_stores_own_folder_is_not_a_key(reopen):
    with pytest.raises(Exception, match="own"):
        reopen().start("uploads/abc", 3, PART)


def test_a_link_in_place_of_a_blob_is_not_followed(reopen, tmp_path):
    key = put(reopen(), b"abc").key
    (tmp_path / "elsewhere").write_bytes(b"secret")
    (tmp_path / "store" / key).unlink()
    (tmp_path / "store" / key).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageUnavailable):
        list(reopen().read(key, 0, 3))


def test_an_upload_that_the_disk_cannot_hold_is_refused_at_its_start(reopen, tmp_path):
    with pytest.raises(StorageUnavailable, match="free space") as refusal:
        reopen().start(new_key(), 2**55, PART)

    assert refusal.value.facts == {"error": "ENOSPC"}
    assert not list((tmp_path / "store" / "uploads").iterdir())


def test_a_file_of_another_upload_under_the_key_is_never_replaced(reopen, tmp_path):
    store = reopen()
    upload = store.start(new_key(), 3, PART)
    write_parts(store, upload, b"abc")
    (tmp_path / "store" / upload.key).parent.mkdir(parents=True)
    (tmp_path / "store" / upload.key).write_bytes(b"old")

    with pytest.raises(Conflict):
        store.finish(upload)

    assert (tmp_path / "store" / upload.key).read_bytes() == b"old"
