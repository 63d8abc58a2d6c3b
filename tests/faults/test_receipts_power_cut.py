"""Power cut under 12 clients on SQLite: no receipt that left the server is lost, however little of the rest was synced.

The real server's system calls are recorded with `strace` and replayed up to a receipt that was sent; what was not synced by
then is dropped, or survives in part (`support.power`, which says what it does not model). SQLite then recovers the files.

    MODELREG_POWER_CUTS=500 .venv/bin/python -m pytest tests/faults/test_receipts_power_cut.py -s
"""

import os
import random
import re
import sqlite3
import time
from pathlib import Path

import pytest

from faults.test_receipts_survive import Ground
from support import power

CUTS = int(os.environ.get("MODELREG_POWER_CUTS", "60"))
RECEIPTS = 150


@pytest.mark.timeout(1800)
def test_no_receipt_that_was_sent_is_lost_in_a_power_cut(tmp_path):
    reason = power.why_not()
    if reason is not None:
        pytest.skip(reason)
    ground = Ground(tmp_path, {})
    database = tmp_path / "data" / "registry.sqlite3"
    files = [str(database), f"{database}-wal"]
    ground.pause()
    disk = power.Disk({file: bytearray(Path(file).read_bytes()) for file in files})
    recording = power.Recording(ground.server.pid, tmp_path / "calls")
    ground.go_on()
    try:
        before, deadline = ground.held, time.monotonic() + 300
        while ground.held < before + RECEIPTS:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        ground.over.set()
        for thread in ground.threads:
            thread.join(60)
        recording.stop()
        ground.stop()
    ground.check()
    true = dict(read(database))

    dice, acknowledged, lost_writes, cuts = random.Random(0), set(), 0, 0
    chosen = RECEIPTS / CUTS
    for thread, name, arguments, ended in recording.calls():
        found = [] if ended else re.findall(rb"\\nindex (\d+)\\n", power.sent(name, arguments))
        disk.feed(thread, name, arguments, ended)
        for index in found:
            acknowledged.add(int(index))
            if dice.random() * chosen > 1:
                continue
            lost_writes += sum(map(len, disk.pending.values()))
            for choice in (None, dice):
                cuts += 1
                left = dict(recovered(tmp_path / f"cut{cuts}", disk.after_a_cut(choice), files))
                assert acknowledged <= set(left)
                assert sorted(left) == list(range(len(left)))
                assert all(true[number] == entry for number, entry in left.items() if number in acknowledged)
    print(f"\n{cuts} power cuts after {len(acknowledged)} receipts, {lost_writes} writes lost: no receipt lost")
    assert len(acknowledged) >= RECEIPTS
    assert lost_writes > 0


def recovered(folder, left, files):
    folder.mkdir()
    for file, suffix in zip(files, ("", "-wal"), strict=True):
        (folder / f"registry.sqlite3{suffix}").write_bytes(left[file])
    return read(folder / "registry.sqlite3")


def read(path):
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute('SELECT "index", entry FROM custody_event ORDER BY "index"').fetchall()
        assert connection.execute("SELECT size FROM custody_head").fetchall() == [(len(rows),)]
        return rows
    finally:
        connection.close()
