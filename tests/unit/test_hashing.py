import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from blake3 import blake3

from modelreg import hashing, manifests
from modelreg.errors import Conflict, DigestMismatch, Invalid, ManifestInvalid, NotFound
from modelreg.hashing import Measure, check_files, hash_tree, wrong_chunks
from modelreg.manifests import FileEntry

CHUNK = 64 * 1024 + 3  # nothing that a block size divides
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7, 20 * CHUNK]


def content(size, seed=0):
    return random.Random(f"{seed} {size}").randbytes(size)


def expected_entry(path, data, chunk_bytes=CHUNK):
    chunks = [blake3(data[at : at + chunk_bytes]).hexdigest() for at in range(0, len(data), chunk_bytes)]
    return FileEntry(
        path,
        len(data),
        hashlib.sha256(data).hexdigest(),
        blake3(data).hexdigest(),
        tuple(chunks) if len(chunks) > 1 else (),
    )


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    for size in SIZES:
        (root / "sub" / f"{size}.bin").write_bytes(content(size))
    (root / "config.json").write_bytes(b"{}")
    return root


@pytest.fixture
def entries(model):
    return hash_tree(model, chunk_bytes=CHUNK)


def problems_of(root, entries, **arguments):
    with pytest.raises(DigestMismatch) as caught:
        check_files(root, entries, chunk_bytes=CHUNK, **arguments)
    return {(problem["path"], problem["what"], problem["chunk"]) for problem in caught.value.facts["problems"]}


# Measuring


@pytest.mark.parametrize("threads", [None, 1, 4])
def test_hash_tree_says_what_hashlib_and_blake3_say(model, threads):
    found = hash_tree(model, chunk_bytes=CHUNK, threads=threads)

    assert found == [
        expected_entry("config.json", b"{}"),
        *sorted((expected_entry(f"sub/{size}.bin", content(size)) for size in SIZES), key=lambda entry: entry.path),
    ]


def test_what_is_measured_makes_a_manifest(tmp_path):
    (tmp_path / "big.bin").write_bytes(bytes(manifests.CHUNK_BYTES + 1))

    manifest = manifests.build(hash_tree(tmp_path))

    assert manifests.parse(manifest.raw).files[0] == expected_entry(
        "big.bin", bytes(manifests.CHUNK_BYTES + 1), manifests.CHUNK_BYTES
    )


@pytest.mark.parametrize("measure", ["hash_tree", "check_files"])
def test_progress_adds_up_to_every_byte(model, entries, measure):
    lock, done = threading.Lock(), []

    def progress(count):
        with lock:
            done.append(count)

    if measure == "hash_tree":
        hash_tree(model, chunk_bytes=CHUNK, progress=progress)
    else:
        check_files(model, entries, chunk_bytes=CHUNK, progress=progress)

    assert sum(done) == sum(SIZES) + 2


def test_names_are_left_out_of_the_measure(model):
    (model / "model.sig").write_bytes(b"signature")

    found = hash_tree(model, left_out=frozenset({"model.sig", "sub"}))

    assert [entry.path for entry in found] == ["config.json"]


def test_an_empty_folder_is_no_artifact(tmp_path):
    with pytest.raises(ManifestInvalid, match="at least one file"):
        hash_tree(tmp_path)


def test_an_absent_folder_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        hash_tree(tmp_path / "absent")


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "con", "a ", "a:b", os.fsdecode(b"\xff")], ids=ascii)
def test_a_name_no_manifest_may_hold_is_refused_before_anything_is_read(tmp_path, name):
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / name).write_bytes(b"x")
    read = []

    with pytest.raises(ManifestInvalid):
        hash_tree(tmp_path, progress=read.append)

    assert not read


def test_a_symlink_is_refused(model):
    (model / "link").symlink_to("config.json")

    with pytest.raises(Invalid, match="symbolic link"):
        hash_tree(model)


def test_a_symlink_that_takes_the_place_of_a_file_after_listing_is_not_followed(model, monkeypatch, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"{}")
    really_list = hashing.trees.list_files

    def list_then_swap(*arguments):
        found = really_list(*arguments)
        (model / "config.json").unlink()
        (model / "config.json").symlink_to(secret)
        return found

    monkeypatch.setattr(hashing.trees, "list_files", list_then_swap)

    with pytest.raises(OSError, match="symbolic links"):
        hash_tree(model)


def _append(path):
    with path.open("ab") as file:
        file.write(b"more")


def _append_a_lot(path):
    with path.open("ab") as file:
        file.write(content(3 * CHUNK, seed=1))


def _truncate(path):
    os.truncate(path, max(0, path.stat().st_size - 1))


def _overwrite_in_place(path):
    with path.open("r+b") as file:
        file.write(b"?")


def _replace(path):
    other = path.with_suffix(".new")
    other.write_bytes(content(path.stat().st_size, seed=9))
    other.replace(path)


@pytest.mark.parametrize("change", [_append, _append_a_lot, _truncate, _overwrite_in_place])
@pytest.mark.parametrize("size", [10, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_a_file_that_changes_while_it_is_read_is_a_conflict(tmp_path, change, size):
    path = tmp_path / "model.bin"
    path.write_bytes(content(size))
    changed = []

    def progress(_):
        if not changed:
            changed.append(True)
            change(path)

    with pytest.raises(Conflict, match=r"model\.bin changed while it was read"):
        hash_tree(tmp_path, chunk_bytes=CHUNK, threads=1, progress=progress)


@pytest.mark.parametrize("size", [10, 3 * CHUNK])
def test_a_file_that_grows_between_two_reads_is_a_conflict(tmp_path, monkeypatch, size):
    # Once: a ValueError about short chunks, when the growth fell between reading the end and asking for more.
    path = tmp_path / "model.bin"
    path.write_bytes(content(size))
    really_readv = os.readv

    def readv_then_grow(fd, buffers):
        count = really_readv(fd, buffers)
        if count:
            _append(path)
        return count

    monkeypatch.setattr(os, "readv", readv_then_grow)

    with pytest.raises(Conflict):
        hash_tree(tmp_path, chunk_bytes=CHUNK, threads=1)


def test_an_interrupt_stops_what_has_not_started(tmp_path):
    for at in range(200):
        (tmp_path / f"{at}.bin").write_bytes(content(1000, seed=at))
    read = []

    def progress(count):
        read.append(count)
        time.sleep(0.01)  # let the interrupted caller cancel the rest before the next file is done
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_tree(tmp_path, threads=1, progress=progress)

    assert len(read) < 200


_MEMORY_PROBE = """
import resource, sys
from pathlib import Path
from modelreg import hashing
root = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
entries = hashing.hash_tree(root, threads=2)
hashing.check_files(root, entries, threads=2)
foreign = [hashing.FileEntry(entry.path, entry.size, entry.sha256, "") for entry in entries]
hashing.check_files(root, foreign, threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_big_file_is_never_in_memory(tmp_path):
    with (tmp_path / "sparse.bin").open("wb") as file:
        file.truncate(200 * 1024 * 1024)

    done = subprocess.run(
        [sys.executable, "-c", _MEMORY_PROBE, str(tmp_path)], check=True, capture_output=True, text=True, timeout=120
    )

    assert int(done.stdout) / 1024 < 120


# Checking (step 9)


def test_step_9_accepts_what_was_measured(model, entries):
    check_files(model, entries, chunk_bytes=CHUNK)


@pytest.mark.parametrize("threads", [1, 3])
def test_step_9_names_the_file_and_the_chunk_of_a_flipped_bit(model, entries, threads):
    chance = random.Random(2026)
    for _ in range(40):
        entry = chance.choice([entry for entry in entries if entry.size])
        at, bit = chance.randrange(entry.size), 1 << chance.randrange(8)
        with (model / entry.path).open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ bit]))

        expected_chunk = at // CHUNK if entry.chunks else None
        assert problems_of(model, entries, threads=threads) == {(entry.path, "wrong bytes", expected_chunk)}

        with (model / entry.path).open("r+b") as file:
            file.seek(at)
            file.write(bytes([byte]))
    check_files(model, entries, chunk_bytes=CHUNK)


def test_step_9_refuses_same_size_and_same_times_with_other_bytes(model, entries):
    # The hole: a checksum cache keyed by size and time of change believes this file.
    path = model / f"sub/{3 * CHUNK}.bin"
    before = path.stat()
    path.write_bytes(content(3 * CHUNK, seed=666))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    assert problems_of(model, entries) == {(f"sub/{3 * CHUNK}.bin", "wrong bytes", chunk) for chunk in range(3)}


def test_step_9_refuses_chunks_in_another_order(model, entries):
    path = model / f"sub/{3 * CHUNK}.bin"
    data = path.read_bytes()
    path.write_bytes(data[CHUNK : 2 * CHUNK] + data[:CHUNK] + data[2 * CHUNK :])

    assert {chunk for _, _, chunk in problems_of(model, entries)} == {0, 1}


def test_step_9_refuses_a_missing_file(model, entries):
    (model / "config.json").unlink()

    assert problems_of(model, entries) == {("config.json", "missing", None)}


@pytest.mark.parametrize("extra", ["evil.py", "sub/evil.py", ".git/hooks/x", "model.sig", "sub/.hidden"])
def test_step_9_refuses_an_extra_file(model, entries, extra):
    (model / extra).parent.mkdir(parents=True, exist_ok=True)
    (model / extra).write_bytes(b"")

    assert problems_of(model, entries) == {(extra, "not part of the artifact", None)}


@pytest.mark.parametrize("extra", [b"evil\xff.py", b"evil\n.py", b"config.JSON"], ids=ascii)
def test_step_9_reports_an_extra_file_whatever_its_name(model, entries, extra):
    (model / os.fsdecode(extra)).write_bytes(b"")

    with pytest.raises(DigestMismatch) as caught:
        check_files(model, entries, chunk_bytes=CHUNK)

    assert caught.value.detail.isascii()
    assert "not part of the artifact" in caught.value.detail


@pytest.mark.parametrize("size", [10, CHUNK, 3 * CHUNK + 7, 20 * CHUNK])
@pytest.mark.parametrize("change", [_append, _truncate])
def test_step_9_refuses_a_file_of_another_size(model, entries, size, change):
    if size == 10:
        path = model / "config.json"
    else:
        path = model / f"sub/{size}.bin"
    change(path)

    assert problems_of(model, entries) == {(str(path.relative_to(model)), "wrong size", None)}


def test_step_9_refuses_a_symlink_even_to_the_right_bytes(model, entries, tmp_path):
    (tmp_path / "copy").write_bytes(b"{}")
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(tmp_path / "copy")

    with pytest.raises(Invalid, match="symbolic link"):
        check_files(model, entries, chunk_bytes=CHUNK)


def test_step_9_refuses_a_symlinked_folder_that_appears_after_listing(model, entries, tmp_path, monkeypatch):
    really_list = hashing.trees.list_files

    def list_then_swap(*arguments):
        found = really_list(*arguments)
        (model / "sub").rename(tmp_path / "elsewhere")
        (model / "sub").symlink_to(tmp_path / "elsewhere")
        return found

    monkeypatch.setattr(hashing.trees, "list_files", list_then_swap)

    found = problems_of(model, entries)
    assert {path for path, _, _ in found} == {entry.path for entry in entries} - {"config.json"}
    assert all("cannot be read" in what for _, what, _ in found)


def test_step_9_refuses_a_pipe_that_appears_after_listing(model, entries, monkeypatch):
    really_list = hashing.trees.list_files

    def list_then_swap(*arguments):
        found = really_list(*arguments)
        (model / "config.json").unlink()
        os.mkfifo(model / "config.json")
        return found

    monkeypatch.setattr(hashing.trees, "list_files", list_then_swap)
    foreign = [replace(entry, blake3="", chunks=()) for entry in entries]

    for known in (entries, foreign):
        ((path, what, _),) = problems_of(model, known)
        assert path == "config.json"
        assert "cannot be read" in what
        monkeypatch.setattr(hashing.trees, "list_files", lambda *_: [entry.path for entry in entries])


def test_step_9_refuses_a_file_cut_short_between_its_size_and_its_bytes(tmp_path, monkeypatch):
    path = tmp_path / "model.bin"
    path.write_bytes(content(2 * CHUNK))
    entries = hash_tree(tmp_path, chunk_bytes=CHUNK)
    really_read = os.preadv

    def cut_then_read(fd, buffers, offset):
        os.truncate(path, CHUNK)
        return really_read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", cut_then_read)

    assert problems_of(tmp_path, entries) == {("model.bin", "wrong bytes", 1)}


def test_step_9_refuses_an_empty_list_of_files(tmp_path):
    with pytest.raises(ManifestInvalid, match="at least one file"):
        check_files(tmp_path, [])


def test_step_9_reports_at_most_a_hundred_problems(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    entries = hash_tree(tmp_path)
    for at in range(150):
        (tmp_path / f"extra-{at}").write_bytes(b"")

    with pytest.raises(DigestMismatch, match="and 149 more") as caught:
        check_files(tmp_path, entries)

    assert len(caught.value.facts["problems"]) == 100


def test_a_problem_says_what_was_expected_and_measured(model, entries):
    (model / "config.json").write_bytes(b"[]")

    with pytest.raises(DigestMismatch) as caught:
        check_files(model, entries, chunk_bytes=CHUNK)

    assert caught.value.detail == (
        f"{model}: config.json: wrong bytes (expected blake3:{blake3(b'{}').hexdigest()}, "
        f"measured blake3:{blake3(b'[]').hexdigest()})"
    )


# Entries of foreign signatures have SHA-256 only


@pytest.mark.parametrize("stated", ["size", "no size"])
def test_a_foreign_entry_is_held_against_its_sha256(model, entries, stated):
    foreign = [FileEntry(entry.path, entry.size if stated == "size" else -1, entry.sha256, "") for entry in entries]
    done = []

    check_files(model, foreign, chunk_bytes=CHUNK, progress=done.append)

    assert sum(done) == sum(SIZES) + 2
    (model / "config.json").write_bytes(b"[]")
    assert problems_of(model, foreign) == {("config.json", "wrong bytes", None)}


def test_a_foreign_entry_of_another_size_is_refused(model, entries):
    foreign = [FileEntry(entry.path, entry.size + 1, entry.sha256, "") for entry in entries]

    assert {what for _, what, _ in problems_of(model, foreign)} == {"wrong size"}


def test_a_big_entry_without_chunks_is_held_against_its_blake3(model, entries):
    whole = [replace(entry, chunks=()) for entry in entries]

    check_files(model, whole, chunk_bytes=CHUNK)

    with (model / f"sub/{20 * CHUNK}.bin").open("r+b") as file:
        file.seek(19 * CHUNK)
        file.write(b"????????")
    assert problems_of(model, whole) == {(f"sub/{20 * CHUNK}.bin", "wrong bytes", None)}


# Resuming


def test_wrong_chunks_tells_which_chunks_of_a_partial_file_do_not_hold(tmp_path):
    data = content(3 * CHUNK + 7)
    entry = expected_entry("x", data)
    path = tmp_path / "x"
    path.write_bytes(data[:CHUNK] + b"?" * CHUNK + data[2 * CHUNK : 3 * CHUNK - 1])

    with path.open("rb") as file:
        assert wrong_chunks(file.fileno(), entry, CHUNK) == [1, 2, 3]
    path.write_bytes(data)
    with path.open("rb") as file:
        assert wrong_chunks(file.fileno(), entry, CHUNK) == []


def test_wrong_chunks_of_an_empty_file_is_one_chunk(tmp_path):
    (tmp_path / "x").write_bytes(b"")

    with (tmp_path / "x").open("rb") as file:
        assert wrong_chunks(file.fileno(), expected_entry("x", b""), CHUNK) == []
        assert wrong_chunks(file.fileno(), expected_entry("x", b"y"), CHUNK) == [0]


# Measuring what comes from elsewhere


@pytest.mark.parametrize("size", SIZES)
def test_measure_agrees_with_hash_tree(size):
    measure = Measure(CHUNK)
    data = content(size)
    for at in range(0, size, CHUNK):
        measure.update(data[at : at + CHUNK])

    assert measure.entry("x") == expected_entry("x", data)


def test_measure_refuses_a_chunk_after_a_short_one():
    measure = Measure(CHUNK)
    measure.update(b"short")

    with pytest.raises(ValueError, match="only the last"):
        measure.update(b"more")
