"""`modelreg-server serve --workers N`: one address, one log, and no process left behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlmodel import select

from modelreg import connections, wire
from modelreg.api import Api
from modelreg.errors import RecordUnavailable
from modelreg_server import database
from modelreg_server.custody import CustodyEvent
from support.registry import RegistryProcess


@pytest.fixture
def server(tmp_path):
    made = RegistryProcess(tmp_path, {"MODELREG_WORKERS": "4"}).start()
    yield made
    made.stop()


def workers_of(server):
    return [int(word) for word in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def api(server):
    return Api(server.url, server.admin_token, connections.make_pool(None, 1))


def test_four_workers_on_one_sqlite_file_leave_no_gap_in_the_log(server):
    assert len(workers_of(server)) == 4
    request = wire.TokenRequest(principal="person:al", expires_in_seconds=600)

    def issue(_number):
        """A connection of its own each time: the kernel chooses the worker."""
        return api(server).issue_token(request).info.id

    with ThreadPoolExecutor(8) as pool:
        issued = list(pool.map(issue, range(80)))

    opened = database.connect(f"sqlite:///{server.folder / 'data' / 'registry.sqlite3'}", 2)
    with opened.reading() as session:
        rows = session.exec(select(CustodyEvent.index, CustodyEvent.detail).order_by(CustodyEvent.index)).all()
    opened.dispose()
    assert [index for index, _ in rows] == list(range(81))  # and the admin token's
    assert {detail["token"] for _, detail in rows} >= set(issued)


def test_a_worker_that_is_killed_is_replaced_and_the_others_serve_on(server):
    victim = workers_of(server)[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: not runs(victim) and len(workers_of(server)) == 4)

    assert {api(server).whoami().principal for _ in range(12)} == {"person:admin"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_when_the_parent_ends_so_do_its_workers(server, number):
    workers = workers_of(server)
    server.process.send_signal(number)
    server._reap()
    code = server.process.returncode
    until(lambda: not any(map(runs, workers)))

    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_what_stops_a_server_from_starting_is_said_once_with_its_exit_code(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODELREG_")}
    command = [sys.executable, "-c", "import modelreg_server as s; raise SystemExit(s.main())", "serve", "--port", "0"]
    done = subprocess.run(
        [*command, "--workers", "3", "--data-dir", tmp_path / "new"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode != 0
    assert "migrate" in done.stderr
    assert done.stderr.count("modelreg-server:") == 1
    assert "serves" not in done.stdout


def test_who_waits_too_long_for_their_turn_to_write_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.2)
    first = database.connect(f"sqlite:///{tmp_path / 'own.sqlite3'}", 2)
    other_process = database.connect(f"sqlite:///{tmp_path / 'own.sqlite3'}", 2)
    with first.writing() as session:
        session.connection()
        for opened in (first, other_process):
            with pytest.raises(RecordUnavailable, match="writing"), opened.writing() as waiting:
                waiting.connection()
        with other_process.reading() as reading:
            reading.connection()  # who looks does not wait
    for opened in (first, other_process):
        with opened.writing() as session, session.begin():
            session.connection()
        with pytest.raises(ZeroDivisionError), opened.writing() as session, session.begin():
            session.connection()
            raise ZeroDivisionError
    first.dispose()
    other_process.dispose()
    assert (tmp_path / "own.sqlite3.lock").stat().st_mode & 0o777 == 0o600


def test_a_process_that_dies_while_it_writes_leaves_its_turn(tmp_path):
    path = tmp_path / "own.sqlite3"
    code = (
        "import os, sys; from modelreg_server import database\n"
        f"session = database.connect('sqlite:///{path}', 2).writing(); session.connection()\n"
        "print('writes', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writes\n"
        writer.kill()
    opened = database.connect(f"sqlite:///{path}", 2)
    with opened.writing() as session, session.begin():
        session.connection()
    opened.dispose()
