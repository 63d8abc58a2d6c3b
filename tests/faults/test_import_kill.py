"""kill -9 of an import in the middle; the next run fetches less, and what is published is right.

    MODELREG_IMPORT_BYTES=1000000000 MODELREG_IMPORT_KILLS=5 scripts/test tests/faults/test_import_kill.py -s

CI imports a small model and kills it twice.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import time

import pytest

from support.hub import running_hub
from support.registry import RegistryProcess, cli, cli_environment

SIZE = int(os.environ.get("MODELREG_IMPORT_BYTES", "160000000"))
KILLS = int(os.environ.get("MODELREG_IMPORT_KILLS", "2"))


@pytest.fixture
def server(tmp_path):
    one = RegistryProcess(tmp_path / "registry").start()
    yield one
    one.stop()


@pytest.fixture
def hub(tmp_path):
    """A model of several files on disk: one that is most of it, one of a few chunks, and small ones."""
    folder = tmp_path / "model"
    folder.mkdir()
    block = random.Random(0).randbytes(1 << 20)
    for name, size in (("model-1.safetensors", SIZE * 3 // 4), ("model-2.safetensors", SIZE // 4 + 12345)):
        with (folder / name).open("wb") as file:
            for at in range(size // len(block) + 1):
                file.write(at.to_bytes(8, "big") + block[8 : size - at * len(block)])
    small = {f"config-{at}.json": json.dumps({"file": at}).encode() for at in range(20)}
    with running_hub() as one:
        one.model = one.add("acme-ai/big", {**small, **{path.name: path for path in folder.iterdir()}})
        yield one


@pytest.mark.timeout(1200)
def test_a_killed_import_goes_on_and_publishes_what_the_source_declares(server, hub, tmp_path):
    env = cli_environment(server.url, server.admin_token, server.trust, tmp_path / "home")
    command = [
        "import", "hf://acme-ai/big", "demo/big:v1", "--from-endpoint", hub.url, "--allow-http", "--allow-private-address", "--json",
    ]  # fmt: skip
    total = sum(file.size for file in hub.model.commits[hub.model.commit].values())
    area = tmp_path / "home" / ".cache" / "modelreg" / "imports"
    started = time.monotonic()

    for turn in range(KILLS):
        hub.sent_bytes.clear()
        client = subprocess.Popen(
            [sys.executable, "-m", "modelreg.cli", *command],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 300
        # In the middle: when another share of it has left the hub.
        while hub.total_sent < total // (KILLS + 2) and client.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        client.kill()
        client.wait()
        assert client.returncode == -9, f"turn {turn}: it was done before it could be killed"
        # Nothing that is not whole has a final name.
        for path in area.glob("*/files/**/*"):
            if path.is_file():
                declared = hub.model.commits[hub.model.commit][str(path.relative_to(next(area.iterdir()) / "files"))]
                assert hashlib.sha256(path.read_bytes()).hexdigest() == declared.sha256
    hub.sent_bytes.clear()

    done = cli(*command, env=env)

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    print(f"{total} bytes, {KILLS} kills, {answer['kept_bytes']} kept, {answer['received_bytes']} received, "
          f"{time.monotonic() - started:.1f} s in all")  # fmt: skip
    assert answer["kept_bytes"] > total // 10
    assert answer["received_bytes"] == total - answer["kept_bytes"] == hub.total_sent
    assert answer["declared_files"] == answer["files"] == 22
    assert not [path for path in area.rglob("*") if path.is_file()]

    pulled = cli("pull", "demo/big:v1", "--output", tmp_path / "out", "--json", env=env)
    assert pulled.returncode == 0, pulled.stderr
    for name, file in hub.model.commits[hub.model.commit].items():
        with (tmp_path / "out" / name).open("rb") as opened:
            assert hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
