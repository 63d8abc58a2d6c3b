"""What stays behind when `launch` becomes the runtime: it says that it runs and that it ended, and is in nobody's way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlmodel import select

from modelreg_server.tables import RuntimeLoad
from support.logged import pinned
from support.registry import cli, running_registry

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs procfs")


@pytest.fixture
def launched(tmp_path, registry):
    """Starts `modelreg launch` as a user would; gives the process, its environment, and the load's row."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(os.urandom(8))
    env = registry.environment(tmp_path / "home")
    assert cli("push", model, "demo/m", env=env).returncode == 0
    env["MODELREG_TRUST_POLICY"] = str(pinned(registry, tmp_path / "pinned.toml"))
    before = {row.id for row in rows(registry)}
    started = []

    def start(script, *options, **more):
        command = [
            sys.executable,
            "-m",
            "modelreg.cli",
            "launch",
            *options,
            "demo/m",
            "--",
            "sh",
            "-c",
            script,
            "{model}",
        ]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**env, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    def load():
        return next((row for row in rows(registry) if row.id not in before), None)

    yield start, env, load
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def rows(registry):
    with registry.parts.database.reading() as session:
        return list(session.exec(select(RuntimeLoad)))


def sidecars(folder):
    """Sidecars that were started in this folder. Only root may look: they are not dumpable."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            named = process.name.isdecimal() and b"modelreg.sidecar" in (process / "cmdline").read_bytes()
            if named and os.readlink(process / "cwd") == str(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at a process that is not dumpable")


def wait_for(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def events(registry, kind):
    return [event for event in registry.whole_log() if event.type == kind]


def test_the_runtime_keeps_its_process_id_and_its_end_is_recorded_with_its_status(launched, registry):
    start, _, load = launched
    process = start("echo $$; exit 7", "--heartbeat", "1")
    out, err = process.communicate(timeout=60)

    assert process.returncode == 7
    assert int(out.split()[0]) == process.pid
    assert "receipt: verified" in err
    row = wait_for(lambda: load() if load() and load().ended_at else None)
    assert (row.pid, row.command, row.heartbeat_seconds) == (process.pid, "sh", 1)
    assert row.end_reason == "ended with 7"
    event = events(registry, "artifact.unloaded")[-1]
    assert event.detail["exit_status"] == 7
    assert event.detail["load"] == row.id


def test_heartbeats_come_while_it_runs_and_a_killed_runtime_is_reported_as_such(launched, registry):
    start, _, load = launched
    process = start("exec sleep 100", "--heartbeat", "1")
    row = wait_for(load)
    seen = wait_for(lambda: load() if load().last_seen_at > row.loaded_at else None)
    wait_for(lambda: load().last_seen_at > seen.last_seen_at)
    assert load().ended_at is None
    process.kill()
    process.wait(20)
    ended = wait_for(lambda: load() if load().ended_at else None)
    assert ended.end_reason == "ended by signal 9"


@as_root
def test_the_sidecar_is_nobodys_child_small_and_shows_no_secret(launched, tmp_path):
    start, env, load = launched
    process = start("exec sleep 100", "--heartbeat", "3600")
    wait_for(load)
    wait_for(lambda: [found for found in sidecars(tmp_path) if parent_of(found) != process.pid])
    [pid] = sidecars(tmp_path)

    wait_for(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep\0"))
    assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() == []
    assert os.getsid(pid) != os.getsid(process.pid)
    assert env["MODELREG_TOKEN"].encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert env["MODELREG_TOKEN"].encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0, "not dumpable: its memory is root's"
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    assert int(status["VmRSS"].split()[0]) < 32 * 1024
    assert int(status["RssAnon"].split()[0]) < 16 * 1024
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(pid, number)
    time.sleep(0.2)
    assert Path(f"/proc/{pid}").exists(), "a service manager that ends the service does not end it"
    process.kill()
    process.wait(20)
    wait_for(lambda: load().ended_at)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


@as_root
def test_without_heartbeats_nothing_stays_behind(launched, tmp_path):
    start, _, load = launched
    process = start("exec sleep 100", "--no-heartbeat")
    row = wait_for(load)
    assert row.heartbeat_seconds is None
    wait_for(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep\0"))
    assert sidecars(tmp_path) == []


def test_a_program_that_does_not_start_is_not_said_to_run(launched, registry, tmp_path):
    _, env, load = launched
    done = cli("launch", "--heartbeat", "1", "demo/m", "--", "no-such-program", "{model}", env=env)
    assert done.returncode == 11
    assert wait_for(lambda: load() if load() and load().ended_at else None).end_reason == "ended with 11"


def test_an_end_that_cannot_be_told_is_queued_and_told_by_the_next_command(tmp_path):
    """The registry is away when the runtime ends, and somebody starts it again on the same address."""
    from support.registry import RegistryProcess

    folder = tmp_path / "registry"
    folder.mkdir()
    server = RegistryProcess(folder).start()
    try:
        from support.registry import cli_environment

        env = cli_environment(server.url, server.admin_token, server.trust, tmp_path / "home")
        model = tmp_path / "model"
        model.mkdir()
        (model / "weights.bin").write_bytes(b"w")
        assert cli("push", model, "demo/m", env=env).returncode == 0
        command = [sys.executable, "-m", "modelreg.cli", "launch", "--heartbeat", "3600", "demo/m", "--"]
        process = subprocess.Popen(
            [*command, "sh", "-c", "exec sleep 100", "{model}"], env=env, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep\0"))
        server.kill()
        process.kill()
        process.wait(20)
        outbox = tmp_path / "home" / ".local" / "state" / "modelreg" / "outbox"
        wait_for(lambda: list(outbox.rglob("0*.json")))
        server.start()
        done = cli("report", "--json", env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(outbox.rglob("0*.json")) == []
        logged = cli("log", "--type", "artifact.unloaded", "--json", env=env)
        assert '"reported_at"' in logged.stdout
        assert "ended by signal 9" in logged.stdout
    finally:
        server.stop()


def test_a_sidecar_that_starts_when_the_registry_does_not_answer_does_not_hold_up_the_launch(tmp_path):
    with running_registry(tmp_path / "registry") as registry:
        env = registry.environment(tmp_path / "home")
        model = tmp_path / "model"
        model.mkdir()
        (model / "w").write_bytes(b"w")
        assert cli("push", model, "demo/m", env=env).returncode == 0
        started = time.monotonic()
        done = cli("launch", "--heartbeat", "60", "demo/m", "--", "true", "{model}", env=env)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - started < 30
        wait_for(lambda: [row for row in rows(registry) if row.ended_at])


def test_it_is_started_without_secrets_and_imports_nothing_from_the_working_directory(tmp_path, monkeypatch):
    """A folder that a stranger filled must not become part of a process that holds a token."""
    from modelreg import sidecar

    (tmp_path / "modelreg").mkdir()
    (tmp_path / "modelreg" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    seen = {}
    real = subprocess.run

    def run(command, **more):
        seen.update(command=command, **more)
        return real(command, **{**more, "input": b"not json"})

    monkeypatch.setattr(subprocess, "run", run)
    environment = {
        **os.environ, "MODELREG_TOKEN": "canary-1", "MODELREG_KEY_PASSWORD": "canary-2", "OPENAI_API_KEY": "canary-3",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "canary-4",
    }  # fmt: skip
    assert not sidecar.start({"load": "x"}, environment), "its job was no JSON"
    assert not (tmp_path / "ran").exists()
    for place in (" ".join(seen["command"]), str(seen["env"])):
        assert "canary" not in place
    assert b"canary-1" in seen["input"]
    assert b"canary-4" in seen["input"], "a workload's way to a new token"
    assert b"canary-2" not in seen["input"]
    assert b"canary-3" not in seen["input"]


def test_a_sidecar_whose_launch_is_gone_does_not_take_hold_of_somebody_else():
    """Killed while the sidecar starts, `launch` leaves it to init: which would "run" for ever."""
    from modelreg import sidecar

    job = {"load": "x", "heartbeat_seconds": 3600, "environment": {}, "pid": 1}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "modelreg.sidecar"], input=json.dumps(job).encode(), timeout=60, check=False
    )
    assert done.returncode == 1
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", lambda _command, **more: seen.update(more) or done)
        sidecar.start({"load": "x"}, {})
    assert json.loads(seen["input"])["pid"] == os.getpid()
