"""Recall, end to end: from a running process with mapped weights to a host that has stopped it and said so."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.distribution import Operator
from support.registry import cli, look_at_output, running_registry

# A loader as llama.cpp is one: maps the weights, closes the file, and serves for weeks.
LOADER = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
view = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
os.close(fd)
print("serving", os.getpid(), sum(view[::4096]), flush=True)
time.sleep(600)
"""
# One as vLLM is: reads everything and keeps no file open.
READER = LOADER.replace("view = mmap.mmap(fd, 0, prot=mmap.PROT_READ)", "view = os.read(fd, 1 << 24)")
SIZE = 3_000_000


@pytest.fixture
def registry(tmp_path):
    with running_registry(tmp_path / "registry") as running:
        yield running


class Host:
    """A machine with a home of its own that pinned the operator's root, and the operator beside it."""

    def __init__(self, registry, folder, operator=None):
        self.registry, self.folder = registry, folder
        self.env = registry.environment(folder / "home")
        del self.env["MODELREG_TRUST_POLICY"]
        self.env["MODELREG_HOST_NAME"] = folder.name
        self.operator = operator or Operator(registry, registry.trust.folder / "repo")
        if operator is None:
            self.operator.stage(trust=self.operator.policy_text(), revocations=self.operator.list_text())
            self.operator.publish()
        root = folder / "1.root.json"
        root.parent.mkdir(exist_ok=True)
        root.write_bytes(self.operator.first_root)
        self("trust", "pin", "--root", root)

    def __call__(self, *arguments, expect=0, **changes):
        done = cli(*arguments, env={**self.env, **changes})
        assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments, expect=0):
        return json.loads(self(*arguments[:1], *arguments[1:], expect=expect).stdout)

    @property
    def store(self):
        return Path(self.env["HOME"]) / ".cache" / "modelreg"

    @property
    def state(self):
        return Path(self.env["HOME"]) / ".local" / "state" / "modelreg"

    def watch(self, *more, expect=0):
        return self.json("watch", "--once", "--json", *more, expect=expect)

    @contextmanager
    def serving(self, reference, program=LOADER):
        """A runtime started by `modelreg launch`, until the block ends."""
        command = [sys.executable, "-m", "modelreg.cli", "launch", reference, "--"]
        command += [sys.executable, "-c", program, "{model}/w.bin"]
        process = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline()
            assert line.startswith("serving"), process.communicate()
            process.runtime = int(line.split()[1])  # the runtime's own, however `launch` starts it
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            out, err = process.communicate(timeout=20)
            look_at_output(("launch",), out, err)


@pytest.fixture
def host(registry, tmp_path):
    return Host(registry, tmp_path / "gpu-1")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(os.urandom(SIZE))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def artifact(host, model):
    return host.json("push", model, "demo/m", "--json")["artifact"]


def ended(process):
    deadline = time.monotonic() + 10
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process.returncode


@pytest.mark.parametrize("program", [LOADER, READER], ids=["mapped", "read"])
def test_a_quarantine_stops_what_runs_and_the_host_says_so(host, artifact, tmp_path, program):
    host("pull", "demo/m")
    repo = host.operator.folder
    with host.serving("demo/m", program) as runtime:
        assert host.watch()["recalled"] == []
        done = host("quarantine", "demo/m", "--reason", "odd answers", "--repo", repo, "--publish")
        assert "published as event" in done.stdout

        for command in (
            ("pull", "demo/m"),
            ("launch", "demo/m", "--", "true", "{model}"),
            ("verify", f"demo/m@{artifact}"),
        ):
            refused = host(*command, expect=21)
            assert "odd answers" in refused.stderr
        status = host.json("recall", "status", "demo/m", "--json", expect=40)
        assert (status["schema"], status["unsettled"]) == ("modelreg/recall-status/v1", 1)
        (row,) = status["hosts"]
        assert (row["host"], row["verified"]) == ("gpu-1", False)
        assert row["exposure"] in {"loaded", "running"}

        looked = host.watch(expect=21)
        (item,) = looked["recalled"]
        assert (item["artifact"], item["state"], item["processes"]) == (artifact, "running", [runtime.runtime])
        assert item["by"] == ["list", "registry"]
        assert host.json("recall", "status", "demo/m", "--json", expect=40)["hosts"][0]["state"] == "running"
        assert runtime.poll() is None

        looked = host.watch("--on-recall", "kill", "-TERM", "{pid}")
        assert ended(runtime) != 0
        assert [row["state"] for row in looked["recalled"]] == ["holding"]

    host("recall", "status", artifact)
    confirmed = [e.detail["state"] for e in host.registry.whole_log() if e.type == "recall.confirmed"]
    assert confirmed == ["running", "holding"]
    # Said once: further rounds are silent.
    host.watch()
    assert len([e for e in host.registry.whole_log() if e.type == "recall.confirmed"]) == 2

    host("release", "demo/m", "--reason", "false alarm", "--repo", repo, "--publish")
    host("verify", f"demo/m@{artifact}")
    with host.serving("demo/m"):
        assert host.watch()["recalled"] == []


def test_a_revocation_with_remove_takes_the_bytes_and_spares_what_others_need(host, model, artifact, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "config.json").write_text('{"other": 1}')
    spared = host.json("push", other, "demo/other", "--json")["artifact"]
    host("pull", "demo/m")
    host("pull", "demo/other")
    host("revoke", f"demo/m@{artifact}", "--reason", "backdoor", "--repo", host.operator.folder, "--publish")

    with host.serving("demo/other") as runtime:
        assert (
            host.watch()["recalled"][0]["state"] == "holding"
        )  # the runtime has the other one, though it shares a file
        host("recall", "status", artifact, expect=40)
        looked = host.watch("--remove", "--on-recall", "kill", "{pid}")
        assert [(row["artifact"], row["state"]) for row in looked["recalled"]] == [(artifact, "removed")]
        assert runtime.poll() is None
    host("recall", "status", artifact)
    hexes = {path.name for path in (host.store / "snapshots").iterdir()}
    assert hexes == {spared.removeprefix("sha256:")}
    host("verify", f"demo/other@{spared}")
    host("verify", f"demo/m@{artifact}", expect=11)
    assert host.watch()["recalled"] == []


def test_nothing_is_removed_under_a_process_that_does_not_stop(host, artifact):
    host("pull", "demo/m")
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + LOADER
    with host.serving("demo/m", stubborn) as runtime:
        host("revoke", "demo/m", "--reason", "backdoor")
        looked = host.watch("--remove", "--stop-seconds", "0.5", "--on-recall", "kill", "-TERM", "{pid}", expect=21)
        assert [(row["state"], row["by"]) for row in looked["recalled"]] == [("running", ["registry"])]
        assert runtime.poll() is None
        assert (host.store / "snapshots" / artifact.removeprefix("sha256:") / "w.bin").exists()
        looked = host.watch("--remove", "--on-recall", "kill", "-KILL", "{pid}")
        assert [row["state"] for row in looked["recalled"]] == ["removed"]


def test_offline_the_list_is_obeyed_and_what_is_to_be_said_waits_in_order(tmp_path, model):
    with running_registry(tmp_path / "registry") as registry:
        host = Host(registry, tmp_path / "gpu-2")
        artifact = host.json("push", model, "demo/m", "--json")["artifact"]
        host("pull", "demo/m")
        process = host.serving("demo/m")
        runtime = process.__enter__()
        host("quarantine", "demo/m", "--reason", "odd", "--repo", host.operator.folder, "--publish")
        host("trust", "show")  # one look at the list, then the network goes
        port = registry.url.rpartition(":")[2]
        database = registry.parts.settings.resolved_database_url
    try:
        refused = host("verify", f"demo/m@{artifact}", expect=21)
        assert "odd" in refused.stderr
        looked = host.watch(expect=21)
        assert looked["offline"]
        assert (looked["recalled"][0]["by"], looked["recalled"][0]["state"]) == (["list"], "running")
        assert looked["waiting"] == 1
        looked = host.watch("--on-recall", "kill", "{pid}")
        ended(runtime)
        assert looked["waiting"] == 2
    finally:
        process.__exit__(None, None, None)
    waiting = sorted(host.state.glob("notices/*/*.json"))
    assert [json.loads(path.read_text())["body"]["state"] for path in waiting] == ["running", "holding"]

    with running_registry(
        tmp_path / "registry2", trusted=registry.trust, data_dir=tmp_path / "registry" / "data", listen=int(port)
    ) as again:
        assert again.parts.settings.resolved_database_url == database
        looked = host.watch()
        assert (looked["offline"], looked["waiting"]) == (None, 0)
        said = [e.detail["state"] for e in again.whole_log() if e.type == "recall.confirmed"]
        assert said[:2] == ["running", "holding"]
        host("recall", "status", artifact)


def test_a_file_changed_in_place_under_a_running_process_is_noticed_and_reported(host, artifact):
    host("pull", "demo/m")
    with host.serving("demo/m") as runtime:
        assert host.watch()["altered"] == []
        file = host.store / "snapshots" / artifact.removeprefix("sha256:") / "w.bin"
        before = file.stat()
        file.chmod(0o600)
        with file.open("r+b") as raw:
            raw.seek(SIZE // 2)
            raw.write(b"\0" * 16)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # times forged back

        looked = host.watch(expect=20)
        found = {(item["where"], item["what"], item["pid"]) for item in looked["altered"]}
        assert ("file", "changed", None) in found
        assert ("process", "changed", runtime.runtime) in found
        host.watch(expect=20)
    reported = [e for e in host.registry.whole_log() if e.type == "artifact.altered"]
    assert {(e.artifact, e.host, e.repository) for e in reported} == {(artifact, "gpu-1", "demo/m")}
    assert len(reported) == len(looked["altered"]), "said once, not every round"
    assert {e.detail["pid"] for e in reported if e.detail["where"] == "process"} == {runtime.runtime}
    host("launch", "demo/m", "--", "true", "{model}", expect=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="opening /proc/PID/map_files takes root")
def test_a_file_replaced_by_rename_is_noticed_and_the_process_is_known_to_have_the_admitted_one(host, artifact):
    host("pull", "demo/m")
    with host.serving("demo/m") as runtime:
        host.watch()
        file = host.store / "snapshots" / artifact.removeprefix("sha256:") / "w.bin"
        fake = file.with_name(".new")
        fake.write_bytes(os.urandom(SIZE))
        fake.rename(file)
        looked = host.watch(expect=20)
        found = {(item["where"], item["what"], item["pid"]): item for item in looked["altered"]}
        assert set(found) == {("file", "replaced", None), ("process", "replaced", runtime.runtime)}
        in_process = found[("process", "replaced", runtime.runtime)]
        assert in_process["measured"] == in_process["expected"], "it runs what was admitted; the next one would not"
        on_disk = found[("file", "replaced", None)]
        assert on_disk["measured"] != on_disk["expected"]

        # The same, unlinked: the process holds the last copy.
        file.unlink()
        looked = host.watch(expect=20)
        found = {(item["where"], item["what"]) for item in looked["altered"]}
        assert found == {("file", "missing"), ("process", "missing")}


def test_a_second_host_that_never_looks_keeps_the_recall_open(registry, host, artifact, tmp_path):
    second = Host(registry, tmp_path / "gpu-9", operator=host.operator)
    host("pull", "demo/m")
    second("pull", "demo/m")
    host("quarantine", "demo/m", "--reason", "odd")
    host.watch()
    status = host.json("recall", "status", "demo/m", "--json", expect=40)
    assert [(row["host"], row["settled"]) for row in status["hosts"]] == [("gpu-9", False), ("gpu-1", True)]
    shutil.rmtree(second.store)  # by hand, and then it is asked all the same
    assert second.watch()["recalled"][0]["state"] == "absent"
    host("recall", "status", "demo/m")


def test_the_daemon_ends_on_sigterm_and_looks_again_until_then(host, artifact):
    host("pull", "demo/m")
    command = [sys.executable, "-m", "modelreg.cli", "watch", "--interval", "1"]
    daemon = subprocess.Popen(command, env=host.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stdout.readline() == "1 artifacts held, 0 files altered, 0 recalled\n"
        host("quarantine", "demo/m", "--reason", "odd")
        for line in daemon.stdout:
            if "RECALLED" in line:
                break
        assert line == f"RECALLED {artifact} (quarantine: odd): holding\n"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    finally:
        if daemon.poll() is None:
            daemon.kill()
        _out, err = daemon.communicate()
    assert err == ""
    host("recall", "status", "demo/m")
