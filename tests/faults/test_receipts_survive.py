"""kill -9 of the server under 12 clients: every receipt that a client holds is honoured afterwards.

    MODELREG_RECEIPT_KILLS=50 .venv/bin/python -m pytest tests/faults/test_receipts_survive.py -s

CI kills a few times on SQLite (with one worker and with three) and on PostgreSQL, where the database is killed as well. A
client keeps every receipt that it verified, and goes on from its newest checkpoint across all restarts. At the end the log
has every such entry at its index, no index is missing, and the tree of what is stored had, at the size of every checkpoint
that anybody was shown, the root that was signed then.
"""

import http.client
import json
import os
import random
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlmodel import select

from modelreg import checkpoints, connections, merkle, notes, receipts, wire
from modelreg.api import Api
from modelreg.trust import LogTrust
from modelreg_server import database, log_keys
from modelreg_server.custody import CustodyEvent
from modelreg_server.custody_tree import CustodyHead
from modelreg_server.settings import Settings
from support.postgres import own_postgres, why_not
from support.registry import RegistryProcess, cli, cli_environment

KILLS = int(os.environ.get("MODELREG_RECEIPT_KILLS", "0"))
CLIENTS = 12


@dataclass
class Client:
    """Asks for grants as long as it may; what the server does not answer it has not got."""

    port: int
    token: str
    artifact: str
    trusted: LogTrust
    over: threading.Event
    may: threading.Event
    held: list[receipts.VerifiedEntry] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    newest: checkpoints.Checkpoint | None = None

    def run(self):
        while not self.over.is_set():
            try:
                self._ask_until_broken()
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)

    def _ask_until_broken(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            while not self.over.is_set() and self.may.wait(60):
                known = self.newest.size if self.newest else None
                asked = {"artifact": self.artifact, "purpose": "pull", "host": "h", "known_size": known}
                connection.request("POST", "/v1/repositories/demo/m/grants", json.dumps(asked), headers)
                response = connection.getresponse()
                raw = response.read()
                if response.status == 503:  # the database was killed: nothing was granted
                    time.sleep(0.02)
                    continue
                if response.status != 201:
                    self.refused.append(raw.decode()[:300])
                    return
                self._keep(json.loads(raw))
        finally:
            connection.close()

    def _keep(self, answer):
        entry = receipts.verify(answer["receipt"].encode(), self.trusted)
        entry.require(type="artifact.granted", artifact=self.artifact, detail={"grant": answer["id"]})
        new = entry.checkpoint
        size, root = (self.newest.size, self.newest.root) if self.newest else (0, b"")
        proof = notes.decode_hashes(answer["consistency"], merkle.MAX_PROOF_HASHES)
        merkle.verify_consistency(size, root, new.size, new.root, proof)
        self.newest = new
        self.held.append(entry)


class Ground:
    """A server with an artifact, and 12 clients."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.server = RegistryProcess(folder, environment).start()
        self.settings = Settings(data_dir=folder / "data", database_url=environment.get("MODELREG_DATABASE_URL"))
        env = cli_environment(self.server.url, self.server.admin_token, self.server.trust, folder / "home")
        (folder / "model").mkdir()
        (folder / "model" / "weights.bin").write_bytes(b"w" * 1000)
        pushed = cli("push", folder / "model", "demo/m", "--json", env=env)
        assert pushed.returncode == 0, pushed.stderr
        api = Api(self.server.url, self.server.admin_token, connections.make_pool(None, 1))
        request = wire.TokenRequest(principal="workload:gpu", scopes=["pull:demo/*"], expires_in_seconds=86400)
        token = api.issue_token(request).token
        opened = database.connect(self.settings.resolved_database_url, 2)
        signer = log_keys.open_signer(self.settings, opened)
        opened.dispose()
        trusted = LogTrust(signer.origin, (log_keys.verifier_of(signer),))
        self.over, self.may = threading.Event(), threading.Event()
        self.may.set()
        artifact = json.loads(pushed.stdout)["artifact"]
        self.clients = [Client(self.server.port, token, artifact, trusted, self.over, self.may) for _ in range(CLIENTS)]
        self.threads = [threading.Thread(target=client.run) for client in self.clients]
        for thread in self.threads:
            thread.start()

    @property
    def held(self) -> int:
        return sum(len(client.held) for client in self.clients)

    def pause(self) -> None:
        """Nobody asks any more, and every answer has come."""
        self.may.clear()
        held = -1
        while held != (held := self.held):
            time.sleep(1)

    def go_on(self) -> None:
        self.may.set()

    def kill(self) -> None:
        """The server and its workers at once, by process id."""
        pid = self.server.pid
        workers = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        self.server.kill()
        for worker in workers:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        self.server.stop()

    def check(self) -> int:
        """Hold everything that clients hold against the database; returns how many entries there are."""
        opened = database.connect(self.settings.resolved_database_url, 2)
        with opened.reading() as session:
            query = select(CustodyEvent.index, CustodyEvent.entry).order_by(CustodyEvent.index)
            rows = session.exec(query).all()
            head = session.exec(select(CustodyHead)).one()
            session.expunge_all()
        opened.dispose()
        assert [index for index, _ in rows] == list(range(len(rows)))
        tree, roots = merkle.growing_from(0, b""), {}
        for _, entry in rows:
            tree.append(merkle.leaf_hash(entry))
            roots[tree.size] = tree.root()
        signed = checkpoints.verify(head.checkpoint, self.clients[0].trusted)
        assert (signed.size, signed.root) == (len(rows), roots[len(rows)])
        seen = {}
        for client in self.clients:
            assert client.refused == []
            for held in client.held:
                assert rows[held.index][1] == held.entry
                assert seen.setdefault(held.index, held.entry) == held.entry
                assert roots[held.checkpoint.size] == held.checkpoint.root
        assert len(seen) == self.held, "one index in two receipts"
        return len(rows)


def kill_and_check(ground, kills, restart):
    dice, lived = random.Random(kills), []
    try:
        for _ in range(kills):
            before, deadline = ground.held, time.monotonic() + 60
            while ground.held < before + CLIENTS:  # it serves again
                assert time.monotonic() < deadline, [client.refused for client in ground.clients]
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.3))
            ground.kill()
            started = time.monotonic()
            restart()
            ground.server.start()
            lived.append(time.monotonic() - started)
        before, deadline = ground.held, time.monotonic() + 60
        while ground.held < before + CLIENTS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        ground.stop()
    entries = ground.check()
    print(f"\n{kills} kills under {CLIENTS} clients: {ground.held} receipts held, {entries} entries, none lost; "
          f"slowest restart {max(lived):.1f} s")  # fmt: skip
    assert ground.held > kills * CLIENTS


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("workers", [1, 3])
def test_every_receipt_is_honoured_after_kills_on_sqlite(tmp_path, workers):
    ground = Ground(tmp_path, {"MODELREG_WORKERS": str(workers)})
    kill_and_check(ground, KILLS or (5 if workers == 1 else 3), lambda: None)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.timeout(7200)
def test_every_receipt_is_honoured_after_kills_of_server_and_postgresql(tmp_path):
    """Both die: the server by kill -9, and with every second kill PostgreSQL as well, before the server is back."""
    reason = why_not()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"PostgreSQL is missing: {reason}")
    with own_postgres() as postgres:
        ground = Ground(tmp_path, {"MODELREG_DATABASE_URL": postgres.make_database("kills")})
        turns = iter(range(10**6))

        def restart():
            if next(turns) % 2:
                postgres.kill()
                postgres.start()

        kill_and_check(ground, KILLS or 4, restart)
