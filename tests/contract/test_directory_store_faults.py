"""The directory store dies, or its disk fails, at every single step of an upload; nothing false is left behind.

This file is also the program that does it (`python test_directory_store_faults.py FOLDER`): it forks once for every
step and way to fail, and prints one JSON line each. A process of its own, because forking pytest is not safe.
"""

import errno
import itertools
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from modelreg.errors import BlobMissing, Conflict, StorageUnavailable
from modelreg_server.storage import Upload, blob_key
from modelreg_server.storage.directory import DirectoryStore

PART = 4096
OLD = b"o" * PART + b"p" * 1000
NEW = b"n" * PART + b"q" * 1000
SIZE = len(NEW)
STEPS = ("open", "ftruncate", "pwrite", "fdatasync", "fsync", "link", "unlink", "mkdir", "rmdir", "rename", "replace")
DIED = 9


def upload_everything(root, upload):
    """The whole life of an upload, with a part that is sent again with other bytes."""
    store = DirectoryStore(root)
    store.start(upload.key, SIZE, PART)
    store.write_part(upload, 2, [OLD[PART:]])
    store.write_part(upload, 1, [OLD[:PART]])
    store.write_part(upload, 1, [NEW[:1000], NEW[1000:PART]])
    store.write_part(upload, 2, [NEW[PART:]])
    store.finish(upload)


def upload_and_discard(root, upload):
    upload_everything(root, upload)
    DirectoryStore(root).discard(upload)


LIVES = {"upload": upload_everything, "discard": upload_and_discard}
WAYS = ("die before", "die after", "EIO", "ENOSPC")


def fail_at(number, way):
    """Let the `number`-th step from now fail in this process; `seen` says which one it was."""
    count = itertools.count(1)
    seen = {}

    def failing(name, real):
        def step(*arguments, **options):
            if next(count) != number:
                return real(*arguments, **options)
            seen["step"] = name
            if way == "die before":
                os._exit(DIED)
            if way == "die after":
                real(*arguments, **options)
                os._exit(DIED)
            raise OSError(getattr(errno, way), os.strerror(getattr(errno, way)))

        return step

    for name in STEPS:
        setattr(os, name, failing(name, getattr(os, name)))
    return seen


def die(life, root, upload, number, way, report):
    """Run one life in a forked child. True when it reached its end without coming to step `number`."""
    child = os.fork()
    if child == 0:
        seen = fail_at(number, way)
        try:
            life(root, upload)
        except StorageUnavailable:
            os._exit(DIED)
        except BaseException as error:
            report.write_text(f"{seen}: {error!r}")
            os._exit(1)
        os._exit(DIED if seen else 0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, DIED), report.read_text()
    return code == 0


def names_of_parts(store, upload):
    """Check that a part that counts is whole, old or new, and return what counts."""
    file = store._uploads / upload.key.rpartition("/")[2]
    written = store.written_parts(upload)
    raw = file.read_bytes() if file.exists() else (store._root / upload.key).read_bytes() if written else b""
    for number in written:
        place = slice((number - 1) * PART, number * PART)
        assert raw[place] in {OLD[place], NEW[place]}, f"part {number} counts and is torn"
    return written


def check_and_retry(root, upload):
    """What a server finds after its restart, and what it then does."""
    store = DirectoryStore(root)
    try:
        raw = b"".join(store.read(upload.key, 0, SIZE))
    except BlobMissing:
        assert not (root / upload.key).exists(), "something that is no blob has the final name"
    else:
        assert raw == NEW, "the final name came before the last bytes"
    written = names_of_parts(store, upload)
    try:
        for number in {1, 2} - written:
            store.write_part(upload, number, [NEW[(number - 1) * PART : number * PART]])
        store.finish(upload)
    except Conflict:  # it died in `start`, or in `discard`: the client begins anew
        store.discard(upload)
        upload = Upload(key=blob_key("0" * 64, str(uuid.uuid4())), size_bytes=SIZE, part_bytes=PART, token="")
        upload_everything(root, upload)
    raw = b"".join(store.read(upload.key, 0, SIZE))
    assert raw[:PART] in {OLD[:PART], NEW[:PART]}
    assert raw[PART:] in {OLD[PART:], NEW[PART:]}
    assert [path for path in root.rglob("*") if path.is_file()] == [root / upload.key], "something was left over"
    assert not list((root / "uploads").iterdir()), "something was left over"


def check_and_discard(root, upload):
    store = DirectoryStore(root)
    store.discard(upload)
    assert not [path for path in root.rglob("*") if path.is_file()], "something was left over"
    assert not list((root / "uploads").iterdir()), "something was left over"
    assert store.written_parts(upload) == frozenset()


def explore(folder, survive=lambda: None):
    """Every life, way and step; `survive` may do more to the file system between the death and the look."""
    for (kind, life), way, after in itertools.product(LIVES.items(), WAYS, (check_and_retry, check_and_discard)):
        for number in itertools.count(1):
            upload = Upload(key=blob_key("0" * 64, str(uuid.uuid4())), size_bytes=SIZE, part_bytes=PART, token="")
            root = folder / uuid.uuid4().hex
            ended = die(life, root, upload, number, way, folder.parent / "report")
            survive()
            wrong = None
            try:
                after(root, upload)
            except Exception as error:
                wrong = repr(error)
            print(json.dumps({"life": kind, "way": way, "after": after.__name__, "step": number, "wrong": wrong}))
            if ended:
                break


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_a_death_or_a_disk_error_at_any_step_leaves_the_whole_blob_or_none_and_a_retry_completes(tmp_path):
    (tmp_path / "stores").mkdir()

    done = subprocess.run([sys.executable, __file__, tmp_path / "stores"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line for line in lines if line["wrong"]] == []
    # Fewer would mean that the steps are no longer where this looks for them.
    assert min(max(line["step"] for line in lines if line["way"] == way) for way in WAYS) > 50


def traced(monkeypatch, tmp_path):
    """The steps of one upload as (name, path or what the descriptor leads to)."""
    trace = []

    def tracing(name, real):
        def step(*arguments, **options):
            descriptor = Path(f"/proc/self/fd/{arguments[0]}")
            target = descriptor.readlink() if isinstance(arguments[0], int) else arguments[0]
            answer = real(*arguments, **options)
            trace.append((name, str(arguments[1] if name == "link" else target)))
            return answer

        return step

    for name in ("pwrite", "fdatasync", "fsync", "link", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, tracing(name, getattr(os, name)))
    upload = Upload(key=blob_key("0" * 64, "id"), size_bytes=SIZE, part_bytes=PART, token="")
    upload_everything(tmp_path / "store", upload)
    monkeypatch.undo()
    return trace, str(tmp_path / "store" / upload.key), str(tmp_path / "store" / "uploads" / "id")


def test_every_folder_is_synced_after_its_last_change_and_the_file_before_its_final_name(monkeypatch, tmp_path):
    trace, final, file = traced(monkeypatch, tmp_path)
    store = str(tmp_path / "store")

    changed = {
        str(Path(path).parent): index for index, (name, path) in enumerate(trace) if name in {"link", "unlink", "mkdir"}
    }
    del changed[f"{file}.parts"]  # it is gone itself
    for folder, index in changed.items():
        assert ("fsync", folder) in trace[index:], folder
    assert len([folder for folder in changed if folder.startswith(f"{store}/blobs")]) == 4

    linked = trace.index(("link", final))
    assert trace.index(("fsync", file), max(i for i, step in enumerate(trace) if step[0] == "pwrite")) < linked
    assert trace.index(("fsync", str(Path(final).parent)), linked) < trace.index(("unlink", file))


def test_an_old_mark_is_gone_for_good_before_the_parts_new_bytes_are_written(monkeypatch, tmp_path):
    trace, _final, file = traced(monkeypatch, tmp_path)

    gone = trace.index(("unlink", f"{file}.parts/1"))

    assert trace[gone + 1 : gone + 3] == [("fsync", f"{file}.parts"), ("pwrite", file)]


if __name__ == "__main__":
    explore(Path(sys.argv[1]))
