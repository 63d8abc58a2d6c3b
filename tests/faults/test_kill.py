"""kill -9 of client and server at random moments of push and pull.

    MODELREG_KILLS=100 MODELREG_KILL_BYTES=1000000000 scripts/test tests/faults/test_kill.py -s

CI runs a small number over a small artifact. Afterwards, every time: no wrong file under a final name on either side, the
next run completes, every event a client was told of is in the log, whose indexes have no gap.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from blake3 import blake3

from support.registry import RegistryProcess, cli, cli_environment

KILLS = int(os.environ.get("MODELREG_KILLS", "8"))
SIZE = int(os.environ.get("MODELREG_KILL_BYTES", "64000000"))
MODES = ["client-push", "client-pull", "server-push", "server-pull"]


class Ground:
    """One registry process, one model, one user."""

    def __init__(self, folder):
        self.folder = folder
        self.server = RegistryProcess(folder).start()
        # The admin token of `init` ends after an hour, longer than any run.
        self.env = cli_environment(self.server.url, self.server.admin_token, self.server.trust, folder / "home")
        self.cache = folder / "home" / ".cache" / "modelreg"
        self.model = folder / "model"
        self.model.mkdir()
        block = random.Random(0).randbytes(1 << 20)
        with (self.model / "weights.bin").open("wb") as file:
            for at in range(SIZE // (1 << 20)):
                file.write(at.to_bytes(8, "big") + block[8:])
        for at in range(20):
            (self.model / f"{at:02}.json").write_text(json.dumps({"file": at}) * 1000)
        self.acknowledged = set()
        self.spoiled = 0

    def change_model(self, turn):
        """Other bytes at the front, so that there is something to send."""
        with (self.model / "weights.bin").open("r+b") as file:
            file.write(turn.to_bytes(8, "little") * 4)

    def run(self, *arguments):
        """Run the CLI to its end; it must succeed. Remembers the events it was told of."""
        done = cli(*arguments, "--json", env=self.env)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        answer = json.loads(done.stdout)
        self.acknowledged.add(answer["event"])
        return answer

    def run_until(self, seconds, victim, *arguments):
        """Start the CLI and kill -9 the victim after some time; returns whether it died in the middle."""
        client = subprocess.Popen(
            [sys.executable, "-m", "modelreg.cli", *map(str, arguments), "--json"],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        timer = threading.Timer(seconds, client.kill if victim == "client" else self.server.kill)
        timer.start()
        if victim == "server":
            timer.join()
            client.kill()  # it would retry for a while; what it was told counts
        out, _ = client.communicate()
        timer.cancel()
        if client.returncode == 0:
            self.acknowledged.add(json.loads(out)["event"])
        if victim == "server":
            self.server.start()
        return client.returncode != 0

    def check_names(self):
        """Everything under a final name is what its name says."""
        for path in (self.cache / "blobs").rglob("*"):
            if path.is_file():
                assert measured(path) == path.name
        for path in (self.folder / "data" / "blobs").rglob("*"):
            if path.is_file():
                assert measured(path) == path.parent.name
        for snapshot in (self.cache / "snapshots").glob("*"):
            assert len([path for path in snapshot.rglob("*") if path.is_file()]) == 21

    def check_log(self):
        """No acknowledged event is lost, no index is missing."""
        from sqlmodel import select

        from modelreg_server import database
        from modelreg_server.custody import CustodyEvent

        opened = database.connect(f"sqlite:///{self.folder / 'data' / 'registry.sqlite3'}")
        with opened.reading() as session:
            indexes = list(session.exec(select(CustodyEvent.index).order_by(CustodyEvent.index)))
        opened.dispose()
        assert indexes == list(range(len(indexes)))
        assert self.acknowledged <= set(indexes)
        return len(indexes)


def measured(path):
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


@pytest.fixture
def ground(tmp_path):
    made = Ground(tmp_path)
    yield made
    made.server.stop()
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.timeout(5400)
def test_a_kill_at_any_moment_leaves_nothing_wrong_and_the_next_run_completes(ground):
    dice = random.Random(int(os.environ.get("MODELREG_KILL_SEED", "4")))
    started = time.monotonic()
    ground.run("push", ground.model, "demo/m")
    push_seconds = time.monotonic() - started
    started = time.monotonic()
    ground.run("pull", "demo/m")
    pull_seconds = time.monotonic() - started
    counts, resumed = Counter(), Counter()

    for turn in range(KILLS):
        mode = MODES[turn % len(MODES)]
        victim, _, verb = mode.partition("-")
        arguments = ("push", ground.model, "demo/m") if verb == "push" else ("pull", "demo/m")
        if verb == "push":
            ground.change_model(turn + 1)
        else:
            shutil.rmtree(ground.cache, ignore_errors=True)

        moment = dice.uniform(0.05, push_seconds if verb == "push" else pull_seconds)
        died = ground.run_until(moment, victim, *arguments)
        counts[mode, "died" if died else "was done"] += 1
        ground.check_names()

        answer = ground.run(*arguments)
        if died and answer["transferred_bytes"] < SIZE * 0.9:
            resumed[mode] += 1
        ground.check_names()
        total = ground.check_log()
        if verb == "push":
            _forget_older_blobs(ground)

    print(f"\n{KILLS} kills over {SIZE} bytes: {dict(counts)}; resumed with less than 90 % to send: {dict(resumed)}; "
          f"{len(ground.acknowledged)} acknowledged events of {total} in the log, none lost")  # fmt: skip
    assert sum(counts.values()) == KILLS


def _forget_older_blobs(ground):
    """Keep the disk small: stored versions of the big file but the newest are not needed for what is tested."""
    files = sorted((path for path in (ground.folder / "data" / "blobs").rglob("*") if path.is_file()),
                   key=lambda path: path.stat().st_mtime_ns)  # fmt: skip
    for path in [path for path in files if path.stat().st_size > 1_000_000][:-1]:
        path.unlink()
