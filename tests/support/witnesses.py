"""Witnesses for tests: the real `modelreg witness` as a process, and a log to be witnessed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import checkpoints, merkle, notes


class Log:
    """A log in memory: leaves, checkpoints of any size, proofs between any two."""

    def __init__(self, origin="log.example/test", seed=b"leaf"):
        self.origin = origin
        self.seed = seed
        self.key = Ed25519PrivateKey.generate()
        self.tree = merkle.Growing(0, [])
        self.nodes = {}

    @property
    def vkey(self):
        return notes.key_of(self.origin, notes.ED25519, self.key.public_key())

    def grow(self, size):
        while self.tree.size < size:
            self.tree.append(merkle.leaf_hash(self.seed + str(self.tree.size).encode()))
        self.nodes |= {(level, index): value for level, index, value in self.tree.finished}
        self.tree.finished.clear()
        return self

    def read(self, nodes):
        return [self.nodes[node] for node in nodes]

    def root(self, size):
        return merkle.root(size, self.grow(size).read)

    def note(self, size):
        return checkpoints.sign(self.origin, size, self.root(size), self.key)

    def head(self, size):
        """What `Witnesses.cosign` takes."""
        return self.note(size), size, lambda old: self.proof(old, size)

    def proof(self, old, new):
        return merkle.consistency(old, new, self.grow(new).read)


class WitnessProcess:
    """`modelreg witness` on a free port; it can be killed and started again with what it kept."""

    def __init__(self, folder: Path, name: str, *logs):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.logs = logs
        self.process = None
        self.port = 0
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("MODELREG_")}
        made = self._run("init", "--key", str(folder / "key"), "--name", name)
        self.vkey = notes.parse_key(made.strip(), "witness", notes.COSIGNATURE)

    def _run(self, *arguments):
        command = [sys.executable, "-m", "modelreg.cli", "witness", *arguments]
        return subprocess.run(command, env=self._env, capture_output=True, text=True, check=True).stdout

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        logs = [word for log in self.logs for word in ("--log", str(log.vkey))]
        command = [sys.executable, "-m", "modelreg.cli", "witness", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--key", str(self.folder / "key"), "--state", str(self.folder / "state"), *logs]
        self.process = subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"listens on 127\.0\.0\.1:(\d+)", line)
        assert found, line
        self.port = int(found[1])
        return self

    def kill(self):
        """kill -9, by process id."""
        self._end(signal.SIGKILL)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            assert self._end(signal.SIGTERM) == 0

    def _end(self, number):
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code

    def __enter__(self):
        return self.start()

    def __exit__(self, *_error):
        self.stop()
