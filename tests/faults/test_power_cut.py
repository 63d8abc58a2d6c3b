"""A power cut loses no acknowledged event: whatever was not synced is gone, torn, or there, and the log is intact."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelreg_server import database, log_checking, log_verifying
from modelreg_server.log_copies import Copies
from support.logs import NOW, MemoryStore
from support.power_cut import Disk, calls
from support.registry import signed

CUTS = int(os.environ.get("MODELREG_POWER_CUTS", "20"))
EVENTS = 400
TRACED = "trace=pwrite64,write,writev,pwritev,ftruncate,fsync,fdatasync,unlink,unlinkat"
WRITER = """
import os, sys
from support.logs import KEY, append_some
from support.registry import signed
from modelreg_server import database, migrations
opened = signed(database.connect(sys.argv[1], 2), KEY)
migrations.migrate(opened.engine)
os.write(1, b"ready\\n")
done = 0
for step in range(int(sys.argv[2])):
    count = 1 + step % 5
    append_some(opened, range(done, done + count))
    done += count
    os.write(1, f"{done}\\n".encode())
os._exit(0)  # nothing is put in order, as in a cut
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The trace of a process that appends and acknowledges."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing: install it")
    folder = tmp_path_factory.mktemp("cut")
    trace, data = folder / "trace", folder / "data"
    data.mkdir()
    command = ["strace", "-f", "-y", "-xx", "-s", "70000", "-e", TRACED, "-o", trace]
    writer = [sys.executable, "-c", WRITER, f"sqlite:///{data / 'registry.sqlite3'}", str(EVENTS // 3)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([*command, *writer], env=env, capture_output=True, text=True, timeout=280)
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == EVENTS // 3 + 1
    return trace, str(data)


def test_no_cut_loses_an_acknowledged_event_or_leaves_a_log_that_is_not_intact(traced, tmp_path):
    trace, data = traced
    lines = list(calls(trace))
    started = next(at for at, line in enumerate(lines) if b"ready\n" in _said(line))
    chance = random.Random(7)
    cuts = set(chance.sample(range(started + 1, len(lines)), CUTS - 1)) | {len(lines) - 1}
    disk, tried, lost_in_between = Disk(data), 0, 0
    for at, line in enumerate(lines):
        disk.apply(line)
        if at not in cuts:
            continue
        acknowledged = int(disk.acknowledged.split()[-1].replace(b"ready", b"0"))
        for kind in (None, random.Random(at), random.Random(-at)):
            folder = tmp_path / str(tried)
            disk.left_over(kind, folder)
            size = intact_size(folder)
            assert size >= acknowledged, (at, kind)
            lost_in_between += size > acknowledged
            tried += 1
            shutil.rmtree(folder)
    print(f"{tried} cuts of {len(lines)} calls, {acknowledged} events acknowledged at the last one")
    assert tried == 3 * CUTS
    assert acknowledged > 300


def test_the_simulation_loses_what_was_never_synced(traced, tmp_path):
    """Without the syncs the same trace loses events: the test above can fail."""
    trace, data = traced
    disk = Disk(data)
    for at, line in enumerate(calls(trace)):
        if at and ("fdatasync(" in line or "fsync(" in line) and disk.acknowledged:
            continue
        disk.apply(line)
    disk.left_over(None, tmp_path / "lost")
    assert intact_size(tmp_path / "lost") < int(disk.acknowledged.split()[-1])


def _said(line):
    return b"ready\n" if "\\x72\\x65\\x61\\x64\\x79\\x0a" in line else b""


def intact_size(folder):
    """Open what is left as the server would, verify it, and say how many events there are."""
    from support.logs import KEY

    opened = signed(database.connect(f"sqlite:///{folder / 'registry.sqlite3'}", 2), KEY)
    copies = Copies(MemoryStore(), opened.log_signer)
    try:
        log_checking.require_appendable(opened, copies, NOW.replace(year=2030))
        with opened.reading() as session:
            report = log_verifying.verify(session.connection(), copies)
            assert session.connection().exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    finally:
        opened.dispose()
    assert report.findings == ()
    return report.size
