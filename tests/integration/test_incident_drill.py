"""The incident drill of docs/tutorial/incident.md: a tampered file on a host is traced, its reach listed, recalled, confirmed
by every host, and the evidence is verified on another machine with the registry stopped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from support.distribution import Operator
from support.registry import cli, look_at_output, running_registry

LOADER = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDONLY)
view = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
os.close(fd)
print("serving", sum(view[::4096]), flush=True)
time.sleep(600)
"""


class Machine:
    """An enrolled host, or a person's laptop, with a home of its own; it pinned the operator's root."""

    def __init__(self, registry, operator, folder, token, *, enrol):
        self.env = registry.environment(folder, token)
        del self.env["MODELREG_TRUST_POLICY"]
        self.env["MODELREG_HOST_NAME"] = folder.name
        self.folder = folder
        root = folder / "1.root.json"
        root.write_bytes(operator.first_root)
        self("trust", "pin", "--root", root)
        if enrol is not None:
            self("host", "enroll", "--token-stdin", input=enrol)

    def __call__(self, *arguments, expect=0, **more):
        done = cli(*arguments, env=self.env, **more)
        assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *arguments, expect=0):
        return json.loads(self(*arguments, "--json", expect=expect))

    def serve(self, reference):
        """A runtime that maps the weights, started by `modelreg launch`."""
        command = [sys.executable, "-m", "modelreg.cli", "launch", reference, "--"]
        command += [sys.executable, "-c", LOADER, "{model}/model.safetensors"]
        process = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline().startswith("serving"), process.communicate()
        return process

    @property
    def store(self):
        return Path(self.env["HOME"]) / ".cache" / "modelreg"


def model_in(folder, seed):
    folder.mkdir()
    noise = numpy.random.default_rng(seed)
    tensors = {f"layer.{at}": noise.standard_normal((64, 64), dtype=numpy.float32) for at in range(4)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    return folder


def stop(process):
    if process.poll() is None:
        process.kill()
    out, err = process.communicate(timeout=20)
    look_at_output(("launch",), out, err)


@pytest.mark.timeout(600)
def test_the_incident_drill(tmp_path, either_database):
    with running_registry(tmp_path / "registry", **either_database) as registry:
        operator = Operator(registry, tmp_path / "repo")
        policy = operator.policy_text()
        operator.stage(trust=policy, revocations=operator.list_text())
        operator.publish()

        oncall = Machine(registry, operator, tmp_path / "laptop", registry.token("person:oncall"), enrol=None)
        hosts = {}
        for name in ("gpu-1", "gpu-2"):
            invitation = oncall("host", "invite", name, "--class", "server", "--zone", "eu-1")
            token = registry.token(f"workload:{name}", "read-metadata:demo/*", "pull:demo/*")
            hosts[name] = Machine(registry, operator, tmp_path / name, token, enrol=invitation)

        # Two artifacts, one made from the other, serving on two hosts.
        base = oncall.json("push", model_in(tmp_path / "base", 1), "demo/base:prod")["artifact"]
        tuned = oncall.json("push", model_in(tmp_path / "tuned", 2), "demo/tuned:prod", "--base", "demo/base:prod")[
            "artifact"
        ]
        processes = [hosts["gpu-1"].serve("demo/base:prod"), hosts["gpu-2"].serve("demo/tuned:prod")]
        try:
            drill(registry, operator, oncall, hosts, base, tuned, tmp_path)
        finally:
            for process in processes:
                stop(process)
        evidence = tmp_path / "case.json"
        oncall("evidence", "create", f"demo/base@{base}", "-o", evidence)

    verify_elsewhere(evidence, base, tmp_path, policy, operator)


def drill(registry, operator, oncall, hosts, base, tuned, tmp_path):
    gpu = hosts["gpu-1"]
    # 1. Somebody with root on gpu-1 changes the weights in place, and sets the times back.
    file = gpu.store / "snapshots" / base.removeprefix("sha256:") / "model.safetensors"
    before = file.stat()
    file.chmod(0o600)
    with file.open("r+b") as raw:
        raw.seek(before.st_size - 100)
        raw.write(b"\x00" * 8)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    looked = gpu.json("watch", "--once", expect=20)
    assert {(row["where"], row["what"]) for row in looked["altered"]} >= {("file", "changed"), ("process", "changed")}
    suspect = tmp_path / "suspect.safetensors"
    shutil.copyfile(file, suspect)

    # 2. What is it? The changed file is nobody's; the artifact it was is known, signed, and says where else it went.
    found = oncall.json("trace", suspect)
    assert (found["schema"], found["artifacts"]) == ("modelreg/trace/v1", [])
    assert found["local"]["format"] == "safetensors"
    found = oncall.json("trace", f"demo/base@{base}", expect=40)
    assert [row["checked"]["verified"] for row in found["artifacts"][0]["signatures"]] == [True]
    tensors = oncall.json("diff", f"demo/base@{base}", suspect_folder(tmp_path, suspect, gpu, base), expect=40)[
        "tensors"
    ]
    assert tensors["counts"]["values"] == 1

    # 3. How far does it reach?
    reach = oncall.json("blast-radius", f"demo/base@{base}", expect=40)
    assert {row["artifact"] for row in reach["artifacts"]} == {base, tuned}
    assert {row["verified_host"] for row in reach["loads"]} == {"gpu-1", "gpu-2"}
    assert "person:oncall" in {row["principal"] for row in reach["people"]}
    pulls = oncall.json("pulls", f"demo/base@{base}", expect=40)["pulls"]
    # The laptop of whoever looks has a copy now as well, and the record says so.
    assert [(row["verified_host"], row["host"]) for row in pulls] == [(None, "laptop"), ("gpu-1", "gpu-1")]
    assert all(row["received_at"] for row in pulls)
    assert oncall.json("loaded", f"demo/tuned@{tuned}", expect=40)["loads"][0]["state"] == "running"
    assert oncall.json("lineage", f"demo/base@{base}", "--down", expect=40)["down"][0]["child"] == tuned

    # 4. Take both back: at the registry at once, and in the signed list.
    dry = oncall("quarantine", f"demo/base@{base}", "--reason", "INC-42", "--cascade", "--dry-run", expect=40)
    assert tuned[7:15] in dry
    oncall("quarantine", f"demo/base@{base}", "--reason", "INC-42", "--cascade", "--repo", operator.folder, "--publish")
    for reference, waiting in ((f"demo/base@{base}", 2), (f"demo/tuned@{tuned}", 1)):
        assert oncall.json("recall", "status", reference, expect=40)["unsettled"] == waiting
        hosts["gpu-2"]("launch", reference, "--", "true", "{model}", expect=21)

    # 5. Whoever has it stops what runs, removes it, and confirms.
    for machine in (*hosts.values(), oncall):
        altered = 20 if machine is gpu else 0
        stop_it = ("--remove", "--on-recall", "kill", "-TERM", "{pid}")
        looked = machine("watch", "--once", "--json", *stop_it, expect=altered)
        assert [row["state"] for row in json.loads(looked)["recalled"]] == ["removed"]
    for reference in (f"demo/base@{base}", f"demo/tuned@{tuned}"):
        assert oncall.json("recall", "status", reference)["unsettled"] == 0

    # 6. The record of it all is intact, and one command lists it.
    oncall("log", "verify")
    types = [event["type"] for event in oncall.json("timeline", f"demo/base@{base}", expect=40)["events"]]
    for wanted in ("published", "granted", "received", "loaded", "altered", "quarantined"):
        assert f"artifact.{wanted}" in types
    assert "recall.confirmed" in types


def suspect_folder(tmp_path, suspect, gpu, base):
    folder = tmp_path / "found-on-gpu-1"
    folder.mkdir()
    shutil.copyfile(suspect, folder / "model.safetensors")
    shutil.copyfile(gpu.store / "snapshots" / base.removeprefix("sha256:") / "config.json", folder / "config.json")
    return folder


def verify_elsewhere(evidence, base, tmp_path, policy, operator):
    """Another machine: an empty home, the trust policy as a file, no network, and the registry is down."""
    clean = tmp_path / "auditor"
    clean.mkdir()
    listed = operator.folder / "targets" / "revocations.toml"
    table = "[revocations]\n" + "\n".join(
        line for line in listed.read_text().splitlines() if not line.startswith(("schema", "version", "#"))
    )
    (clean / "trust.toml").write_text(policy.replace('revocations = "distributed"\n', "") + "\n" + table + "\n")
    env = {"PATH": os.environ["PATH"], "HOME": str(clean), "MODELREG_TRUST_POLICY": str(clean / "trust.toml")}
    env["MODELREG_REGISTRY"] = "http://127.0.0.1:9"
    command = [sys.executable, "-m", "modelreg.cli", "evidence", "verify", str(evidence), "--artifact", base, "--json"]
    if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0:
        command = ["unshare", "-rn", *command]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    look_at_output(("evidence",), done.stdout, done.stderr)
    assert done.returncode == 0, (done.stdout, done.stderr)
    told = json.loads(done.stdout)
    assert told["artifact"] == base

    document = bytearray(evidence.read_bytes())
    at = document.index(b"INC-42")
    document[at : at + 6] = b"INC-43"
    (clean / "forged.json").write_bytes(document)
    command[command.index(str(evidence))] = str(clean / "forged.json")
    forged = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert forged.returncode in {13, 20, 32}, forged.stdout
