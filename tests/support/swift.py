"""A real S3 server for tests: OpenStack Swift's own four daemons with s3api and tempauth, on free loopback ports.

Swift checks SigV4, presigned expiry, part ETags and lengths for real, and keeps acknowledged objects across `kill -9`.
It needs no root, no memcached, no syslog; one replica, one device, one worker. What the recipe must get right: `user=`
names the running user (the default, `swift`, kills every worker), part limits are raised to S3's 10,000, rings are built
by `RingBuilder` in one short process (`swift-ring-builder` costs seconds a call), the file system has user xattrs.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

DAEMONS = ("account", "container", "object", "proxy")
START_SECONDS = 60  # seen: 3 s with compiled bytecode, 10 s without, on two busy cores
MIN_FREE_BYTES = 2 * 1024**3
ACCOUNT, USER, SECRET = "test", "tester", "testing"  # what tempauth's documentation uses; loopback only

RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for name, port in zip(("account", "container", "object"), ports):
    ring = RingBuilder(2, 1, 1)
    ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1", "weight": 1.0})
    ring.rebalance()
    ring.get_ring().save(f"{folder}/{name}.ring.gz")
"""

COMMON = """
[swift-hash]
swift_hash_path_prefix = modelreg
swift_hash_path_suffix = tests
"""

DAEMON = """
[DEFAULT]
user = {user}
swift_dir = {folder}
devices = {folder}/devices
recon_cache_path = {folder}/recon
mount_check = false
fallocate_reserve = 0
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
"""

BACKEND = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

PROXY = """
[pipeline:main]
pipeline = catch_errors healthcheck listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
dns_compliant_bucket_names = true
max_upload_part_num = 10000
max_parts_listing = 10000
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
max_manifest_size = 33554432
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:dlo]
use = egg:swift#dlo
"""


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and its one account. The access key has a colon in it, as Swift's have."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        """A plain boto3 client, to look behind the back of the code under test."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def make_bucket(self, name: str) -> str:
        """Create a bucket (3 characters or more) and return its name."""
        self.client().create_bucket(Bucket=name)
        return name


def why_not() -> str | None:
    """Why the server cannot start on this machine, or None."""
    if find_spec("swift") is None:
        return "OpenStack Swift is not installed: pip install -e '.[dev]'"
    folder = tempfile.gettempdir()
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < MIN_FREE_BYTES:
        return f"{folder} has {free_bytes} bytes free, tests against S3 want {MIN_FREE_BYTES}; set TMPDIR"
    probe = Path(folder, f"modelreg-xattr-{os.getpid()}")
    try:
        probe.touch()
        os.setxattr(probe, "user.modelreg", b"1" * 200)
    except OSError as error:
        return f"{folder} has no user xattrs ({error.strerror}), which Swift needs; set TMPDIR"
    finally:
        probe.unlink(missing_ok=True)
    return None


@contextlib.contextmanager
def swift_server() -> Iterator[S3Server]:
    """Start Swift in a temporary folder, yield it, stop it and remove the folder.

    Raises:
        RuntimeError: it did not start; the daemons' logs are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="modelreg-swift-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        daemons: list[subprocess.Popen[bytes]] = []
        # Bound but not listening: nobody else is given these ports, and Swift (SO_REUSEADDR too) can still have them.
        with contextlib.ExitStack() as held:
            ports = {name: _reserve_port(held) for name in DAEMONS}
            _write_files(folder, ports)
            try:
                daemons.extend(_start(folder, name) for name in DAEMONS)
                endpoint = f"http://127.0.0.1:{ports['proxy']}"
                _wait(folder, daemons, ports)
                yield S3Server(endpoint, "us-east-1", f"{ACCOUNT}:{USER}", SECRET)
            finally:
                _stop(daemons)


def _reserve_port(held: contextlib.ExitStack) -> int:
    taken = held.enter_context(socket.socket())
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", 0))
    return int(taken.getsockname()[1])


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling Swift anew costs five seconds at every start
    return kept | {"HOME": str(folder), "PYTHONWARNINGS": "ignore"}


def _write_files(folder: Path, ports: dict[str, int]) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    for part in ("devices/d1", "recon", "logs"):
        (folder / part).mkdir(parents=True)
    (folder / "swift.conf").write_text(COMMON)
    for name in DAEMONS:
        own = PROXY.format(account=ACCOUNT, user=USER, secret=SECRET) if name == "proxy" else BACKEND.format(name=name)
        text = DAEMON.format(user=user, folder=folder, port=ports[name]) + own
        (folder / f"{name}-server.conf").write_text(text)
    backends = [str(ports[name]) for name in DAEMONS[:3]]
    subprocess.run([sys.executable, "-c", RINGS, str(folder), *backends], check=True, env=_environment(folder))


def _start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    # A process group of its own, so that stopping it by its id takes every child it may have.
    run = f"import sys; from swift.{'obj' if name == 'object' else name}.server import main; sys.exit(main())"
    with (folder / "logs" / name).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", run, str(folder / f"{name}-server.conf"), "-v"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )


def _wait(folder: Path, daemons: list[subprocess.Popen[bytes]], ports: dict[str, int]) -> None:
    deadline = time.monotonic() + START_SECONDS
    waiting = list(DAEMONS)
    while waiting:
        if _answers(ports[waiting[0]], "/healthcheck" if waiting[0] == "proxy" else "/recon/none"):
            waiting.pop(0)
        elif time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
            logs = "\n".join(f"--- {name}\n{(folder / 'logs' / name).read_text()[-3000:]}" for name in DAEMONS)
            raise RuntimeError(f"Swift did not start (still waiting for {', '.join(waiting)})\n{logs}")
        else:
            time.sleep(0.05)


def _answers(port: int, path: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://127.0.0.1:{port}{path}", timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()  # an account server without the recon filter says 4xx: it is up
    except OSError:
        return False
    return True


def _stop(daemons: list[subprocess.Popen[bytes]]) -> None:
    for signal_number, patience_seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        for daemon in daemons:
            if daemon.poll() is None:
                os.killpg(daemon.pid, signal_number)
        deadline = time.monotonic() + patience_seconds
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(max(0.01, deadline - time.monotonic()))
