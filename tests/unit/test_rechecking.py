"""What of the local store is measured again, and what is found: on disk and in processes."""

import mmap
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from modelreg import hashing, manifests, mapped, rechecking
from modelreg.cache import Cache
from modelreg.durable import replace_file
from modelreg.rechecking import Memory

SIZE = 300_000


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "store")


@pytest.fixture
def measured(monkeypatch):
    """The inodes that are read, in order."""
    read = []
    real = rechecking._blake3_of
    monkeypatch.setattr(rechecking, "_blake3_of", lambda fd, size: read.append(os.fstat(fd).st_ino) or real(fd, size))
    return read


@pytest.fixture
def aged(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(rechecking, "SETTLED_SECONDS", -1)


def admit(cache, folder, files):
    """Put an artifact into the store as `pull` leaves it."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    manifest = manifests.build(hashing.hash_tree(folder))
    for entry in manifest.files:
        if not cache.has_blob(entry):
            replace_file(cache.blob_path(entry.blake3), (folder / entry.path).read_bytes(), mode=0o444)
    cache.complete(SimpleNamespace(manifest=manifest, raw_bundle=b"{}", repository="demo/m"))
    return manifest


@pytest.fixture
def manifest(cache, tmp_path):
    return admit(cache, tmp_path / "model", {"w.bin": os.urandom(SIZE), "sub/config.json": b"{}"})


def look(cache, memory=None):
    held, altered = rechecking.held_in(cache)
    more, now = rechecking.recheck(cache, held, memory or Memory())
    return [(item.what, item.path) for item in [*altered, *more]], now


def weights(cache, manifest):
    return cache.snapshot_path(manifest.digest) / "w.bin"


def test_a_store_as_it_was_admitted_is_right_and_each_inode_is_measured_once(cache, manifest, measured, aged):
    found, memory = look(cache)
    assert found == []
    assert len(measured) == len(set(measured)) == 2  # blob and folder share the inode
    assert len(memory.admitted) == 4


def test_what_did_not_change_is_not_measured_again(cache, manifest, measured, aged):
    _found, memory = look(cache)
    measured.clear()
    assert look(cache, memory)[0] == []
    assert measured == []
    assert look(cache, Memory({}, memory.admitted))[0] == []
    assert len(measured) == 2


def test_a_file_that_is_younger_than_a_minute_is_measured_again(cache, manifest, measured):
    """Its times could be those of a write that came after the measuring, in the same tick or through a mapping."""
    _found, memory = look(cache)
    assert memory.measured == {}
    measured.clear()
    look(cache, memory)
    assert len(measured) >= 2


def test_a_change_with_times_forged_back_is_seen_by_the_change_time(cache, manifest, aged):
    _found, memory = look(cache)
    file = weights(cache, manifest)
    before = file.stat()
    file.chmod(0o600)
    with file.open("r+b") as raw:
        raw.seek(1000)
        raw.write(b"\0\1\2\3")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    found, _memory = look(cache, memory)
    assert {what for what, _path in found} == {"changed"}
    assert len(found) == 2  # by both its names


def test_a_write_through_a_mapping_is_seen(cache, manifest, aged):
    _found, memory = look(cache)
    file = weights(cache, manifest)
    file.chmod(0o600)
    fd = os.open(file, os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        view[5000] ^= 1
        view.flush()
    os.close(fd)
    assert {what for what, _path in look(cache, memory)[0]} == {"changed"}


def test_an_altered_file_is_found_every_time_and_measured_once(cache, manifest, measured, aged):
    file = weights(cache, manifest)
    file.chmod(0o600)
    file.write_bytes(b"other")
    first, memory = look(cache)
    measured.clear()
    again, _memory = look(cache, memory)
    assert first == again != []
    assert measured == []


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda file: (file.with_name("n").write_bytes(b"x" * SIZE), file.with_name("n").rename(file)), "replaced"),
        (lambda file: (file.unlink(), file.symlink_to("/etc/passwd")), "replaced"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "replaced"),
        (lambda file: file.unlink(), "missing"),
        (lambda file: (file.chmod(0o600), os.truncate(file, 10)), "changed"),
        (lambda file: (file.chmod(0o600), file.write_bytes(file.read_bytes() + b"more")), "changed"),
    ],
)
def test_whatever_is_done_to_a_file_is_found(cache, manifest, act, expected, aged):
    _found, memory = look(cache)
    act(weights(cache, manifest))
    found = dict(reversed(item) for item in look(cache, memory)[0])
    assert found[f"snapshots/{manifest.digest.hex}/w.bin"] == expected


def test_another_file_with_the_same_bytes_is_no_alteration(cache, manifest, aged):
    _found, memory = look(cache)
    file = weights(cache, manifest)
    copy = file.read_bytes()
    file.with_name("n").write_bytes(copy)
    file.with_name("n").rename(file)
    assert look(cache, memory)[0] == []


def test_a_file_more_is_found_also_as_a_link(cache, manifest):
    folder = cache.snapshot_path(manifest.digest)
    (folder / "sub" / "modeling.py").write_text("import os")
    assert ("extra", f"snapshots/{manifest.digest.hex}/sub/modeling.py") in look(cache)[0]
    (folder / "link.py").symlink_to("/tmp")
    (found,) = [path for what, path in look(cache)[0] if what == "extra"]
    assert "symbolic link" in found


def test_a_changed_manifest_is_an_alteration_and_not_another_artifact(cache, manifest):
    path = cache.root / "artifacts" / manifest.digest.hex / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"w.bin", b"v.bin"))
    held, altered = rechecking.held_in(cache)
    assert held == []
    assert [(item.artifact, item.what) for item in altered] == [(manifest.digest, "changed")]


def test_what_was_removed_is_not_held_and_shared_blobs_stay(cache, manifest, tmp_path):
    shared = weights(cache, manifest).read_bytes()
    other = admit(cache, tmp_path / "other", {"w.bin": shared, "own": b"1"})
    needed = {entry.blake3 for entry in other.files}
    cache.remove(manifest.digest, manifest.files, needed)

    held, _altered = rechecking.held_in(cache)
    assert [one.artifact for one in held] == [other.digest]
    assert look(cache)[0] == []
    blobs = {path.name for path in (cache.root / "blobs").rglob("*") if path.is_file()}
    assert blobs == needed
    cache.remove(manifest.digest, manifest.files, needed)  # again is nothing
    cache.remove(other.digest, other.files, ())
    assert not [path for path in (cache.root / "blobs").rglob("*") if path.is_file()]


# Processes.

MAPPER = """
import mmap, os, sys
views = []
for name in sys.argv[1:]:
    fd = os.open(name, os.O_RDONLY)
    views.append(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
    os.close(fd)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process():
    """Starts processes that have files mapped; ended afterwards by their ids."""
    started = []

    def start(*files, **environment):
        env = {**os.environ, **environment}
        child = subprocess.Popen(
            [sys.executable, "-c", MAPPER, *map(str, files)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        started.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in started:
        child.communicate(timeout=20)


def in_processes(cache, memory):
    held, _altered = rechecking.held_in(cache)
    use = rechecking.in_use(cache, held, memory)
    _more, now = rechecking.recheck(cache, held, memory)
    altered = rechecking.recheck_mapped(cache, held, use, memory, now)
    return use, [(item.what, item.pid, item.measured == item.expected) for item in altered]


def pids(use, manifest):
    return {found.pid for found in use.running.get(manifest.digest, ())}


def test_a_process_that_has_a_file_mapped_runs_the_artifact(cache, manifest, process):
    _found, memory = look(cache)
    child = process(weights(cache, manifest))
    use, altered = in_processes(cache, memory)
    assert (pids(use, manifest), altered) == ({child.pid}, [])
    child.communicate()
    assert pids(in_processes(cache, memory)[0], manifest) == set()


def test_a_process_that_was_launched_runs_the_artifact_without_a_mapping(cache, manifest, process):
    child = process(MODELREG_ARTIFACT=str(manifest.digest))
    assert pids(in_processes(cache, Memory())[0], manifest) == {child.pid}


def test_artifacts_that_share_a_file_are_told_apart_by_path_or_launch(cache, manifest, process, tmp_path):
    other = admit(cache, tmp_path / "other", {"w.bin": weights(cache, manifest).read_bytes(), "own": b"1"})
    blob = cache.blob_path(next(entry.blake3 for entry in manifest.files if entry.path == "w.bin"))
    by_path = process(weights(cache, other))
    by_launch = process(blob, MODELREG_ARTIFACT=str(manifest.digest))
    unknown = process(blob)
    use, _altered = in_processes(cache, Memory())
    assert pids(use, other) == {by_path.pid, unknown.pid}
    assert pids(use, manifest) == {by_launch.pid, unknown.pid}


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="opening /proc/PID/map_files takes root")


@as_root
def test_a_replaced_file_and_the_process_that_has_the_first_one(cache, manifest, process):
    _found, memory = look(cache)
    file = weights(cache, manifest)
    child = process(file)
    file.with_name("n").write_bytes(b"x" * SIZE)
    file.with_name("n").rename(file)
    blob = cache.blob_path(next(entry.blake3 for entry in manifest.files if entry.path == "w.bin"))
    use, altered = in_processes(cache, memory)
    assert pids(use, manifest) == {child.pid}
    assert altered == [("replaced", child.pid, True)]
    blob.unlink()  # the last name: only the process still has it
    assert in_processes(cache, memory)[1] == [("replaced", child.pid, True)]


@as_root
def test_a_process_that_has_the_false_file_is_told_from_one_that_has_the_right_one(cache, manifest, process):
    _found, memory = look(cache)
    file = weights(cache, manifest)
    right = process(file)
    file.with_name("n").write_bytes(b"x" * SIZE)
    file.with_name("n").rename(file)
    false = process(file)
    _use, altered = in_processes(cache, memory)
    assert set(altered) == {("replaced", right.pid, True), ("changed", false.pid, False)}


def test_without_map_files_the_bytes_come_from_a_descriptor_or_the_same_file_or_not_at_all(
    cache, manifest, process, monkeypatch
):
    _found, memory = look(cache)
    child = process(weights(cache, manifest))
    real, forbidden = os.open, ["/map_files/"]

    def without(path, *more, **named):
        if str(path).startswith("/proc/") and any(part in str(path) for part in forbidden):
            raise PermissionError(1, "only root may", str(path))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", without)
    file = weights(cache, manifest)
    file.chmod(0o600)
    with file.open("r+b") as raw:
        raw.write(b"\0" * 8)
    assert in_processes(cache, memory)[1] == [("changed", child.pid, False)]  # Python's mmap keeps a descriptor
    forbidden.append("/fd/")
    assert in_processes(cache, memory)[1] == [("changed", child.pid, False)]
    for name in (file, cache.blob_path(next(e.blake3 for e in manifest.files if e.path == "w.bin"))):
        name.unlink()
    use, altered = in_processes(cache, memory)
    assert altered == [("missing", child.pid, False)]
    with use.uses[0].mapping.opened() as fd:
        assert fd is None


def test_a_process_is_not_taken_for_a_later_one_of_its_number(process):
    child = process()
    found = mapped._look(child.pid)[0]
    assert found.runs()
    assert not mapped.Process(found.pid, found.started - 1).runs()
    child.terminate()
    deadline = time.monotonic() + 10
    while found.runs():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert child.returncode is None  # a zombie still, and no runtime any more


def test_names_of_files_and_processes_cannot_make_other_lines(cache, tmp_path, process):
    """Whoever names a file or a process writes into procfs; a line end in a path is escaped there and read back."""
    odd = admit(cache, tmp_path / "odd", {"a b (deleted)": os.urandom(5000)})
    _found, memory = look(cache)
    child = process(cache.snapshot_path(odd.digest) / "a b (deleted)")
    use, _altered = in_processes(cache, memory)
    assert pids(use, odd) == {child.pid}
