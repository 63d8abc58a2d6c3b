"""A real registry on loopback: uvicorn in a thread (its counters can be read), or the real `modelreg-server` process."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelreg import connections, notes, pki, signing, trust, wire
from modelreg.api import Api
from modelreg.cache import Cache
from modelreg.commands.trusting import _policy_text
from modelreg_server import database, log_keys, migrations
from modelreg_server.app import create_app
from modelreg_server.custody import Actor
from modelreg_server.custody_tree import LogSigner
from modelreg_server.dependencies import Parts
from modelreg_server.identity import EVERYWHERE, Scope, Verb, parse_scope, tokens
from modelreg_server.settings import Settings
from support import canary

SIGNER = "email:al@demo.example"
QUIET = lambda _label, _total: lambda _count: None  # noqa: E731


@dataclass
class Trust:
    """A PKI and a log key made for one test run, a signer, and the policy file that pins them (repositories `demo/*`)."""

    folder: Path
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    leaf_days: int = pki.LEAF_DAYS
    root: pki.Issuer = field(init=False)
    intermediate: pki.Issuer = field(init=False)
    leaf: pki.Issuer = field(init=False)
    log_key: Ed25519PrivateKey = field(init=False)

    def __post_init__(self) -> None:
        now = self.made_at
        self.folder.mkdir(parents=True, exist_ok=True)
        self.root = pki.make_root("test", now)
        self.intermediate = pki.make_intermediate("test", self.root, now)
        self.leaf = pki.issue_signer(SIGNER, self.intermediate, now, self.leaf_days)
        tsa = pki.issue_tsa("tsa", self.intermediate, now)
        self.tsa_key_path.write_bytes(pki.private_pem(tsa.private_key))
        self.tsa_chain_path.write_bytes(
            pki.certificate_pem(tsa.certificate) + pki.certificate_pem(self.intermediate.certificate)
        )
        self.log_key = Ed25519PrivateKey.generate()
        self.log_key_path.write_bytes(pki.private_pem(self.log_key))
        self.policy_path.write_text(
            _policy_text(self.root.certificate, ["demo/*"], ["email:*@demo.example"], now, log=[self.log_vkey])
        )
        self.key_path.write_bytes(pki.private_pem(self.leaf.private_key))
        self.chain_path.write_bytes(
            pki.certificate_pem(self.leaf.certificate) + pki.certificate_pem(self.intermediate.certificate)
        )

    @property
    def log_key_path(self) -> Path:
        return self.folder / "log.key.pem"

    @property
    def log_vkey(self) -> str:
        """What policies pin of the custody log of a registry that runs with this trust."""
        origin = log_keys.default_origin(self.log_key)
        return str(notes.key_of(origin, notes.ED25519, self.log_key.public_key()))

    @property
    def unpinned_text(self) -> str:
        """The trust policy without its `[log]` table, which is the last."""
        return (
            self.policy_path.read_text().partition("\n# The registry's custody log")[0].partition("\n[log]")[0] + "\n"
        )

    def give_log_key(self, data_dir: Path) -> None:
        """Let the registry in this folder have the log key that the policy pins, unless it has one."""
        if not (data_dir / "log.key.pem").exists():
            data_dir.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.log_key_path, data_dir / "log.key.pem")

    @property
    def unpinned(self) -> trust.TrustPolicy:
        return trust.parse(self.unpinned_text.encode())

    @property
    def policy_path(self) -> Path:
        return self.folder / "trust.toml"

    @property
    def key_path(self) -> Path:
        return self.folder / "signer.key.pem"

    @property
    def chain_path(self) -> Path:
        return self.folder / "signer.chain.pem"

    @property
    def tsa_key_path(self) -> Path:
        return self.folder / "tsa.key.pem"

    @property
    def tsa_chain_path(self) -> Path:
        return self.folder / "tsa.chain.pem"

    @property
    def policy(self) -> trust.TrustPolicy:
        return trust.parse(self.policy_path.read_bytes())

    @property
    def signer(self) -> signing.Signer:
        return signing.CertificateSigner(self.leaf.private_key, (self.leaf.certificate, self.intermediate.certificate))


@dataclass
class Registry:
    """A running registry with its parts and its trust."""

    url: str
    parts: Parts
    trust: Trust
    app: Any

    def token(self, principal: str = "person:tester", *scopes: str, minutes: int = 60) -> str:
        """A token straight from the database; every verb everywhere unless scopes are given."""
        return issue_token(self.parts.database, principal, *scopes, minutes=minutes)

    def api(self, token: str | None = None, connections_at_once: int = 4) -> Api:
        """A client of this registry."""
        return Api(self.url, token or self.token(), connections.make_pool(None, connections_at_once))

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment for the real CLI as a subprocess."""
        return cli_environment(self.url, token or self.token(), self.trust, home)

    def cache(self, path: Path) -> Cache:
        return Cache(path)

    def whole_log(self) -> list[wire.EventInfo]:
        return self.api().events(limit=1000)


def signed(opened: database.Database, key: Ed25519PrivateKey | None = None) -> database.Database:
    """A database that can be appended to, with a log key made for it."""
    key = key or Ed25519PrivateKey.generate()
    return replace(opened, log_signer=LogSigner(log_keys.default_origin(key), key))


def issue_token(opened: database.Database, principal: str, *scopes: str, minutes: int = 60) -> str:
    parsed = [parse_scope(text) for text in scopes] or [Scope(verb, EVERYWHERE) for verb in Verb]
    with opened.writing() as session, session.begin():
        text, _row = tokens.issue(
            session,
            Actor("test:setup", None),
            principal=principal,
            scopes=parsed,
            lifetime=timedelta(minutes=minutes),
            now=datetime.now(UTC),
        )
    return text


def cli_environment(url: str, token: str, trusted: Trust, home: Path) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODELREG_", "XDG_"))}
    return {
        **kept,
        "HOME": str(home),
        "MODELREG_REGISTRY": url,
        "MODELREG_TOKEN": token,
        "MODELREG_TRUST_POLICY": str(trusted.policy_path),
        "MODELREG_KEY": str(trusted.key_path),
        "MODELREG_CERTIFICATE": str(trusted.chain_path),
    }


_SHOWS_A_SECRET = {("token", "create"), ("host", "invite")}  # once, on stdout, because that is what it is for


def cli(*arguments: str | Path, env: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the real `modelreg` as a user would."""
    command = [sys.executable, "-m", "modelreg.cli", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300, **more)
    look_at_output(arguments, done.stdout, done.stderr)
    return done


def look_at_output(arguments: Sequence[object], out: str, err: str) -> None:
    """Search what `modelreg ARGUMENTS` printed for secrets, except where showing one is what it is for."""
    canary.look("output", err)
    if tuple(arguments[:2]) not in _SHOWS_A_SECRET:
        canary.look("output", out)


def s3_settings(server: Any) -> dict[str, Any]:
    """Settings for a bucket of its own on the S3 server of `support.swift`."""
    return {
        "s3_bucket": server.make_bucket(f"e2e-{uuid.uuid4().hex}"),
        "s3_endpoint_url": server.endpoint,
        "s3_region": server.region,
        "s3_access_key_id": server.access_key,
        "s3_secret_access_key": server.secret_key,
    }


@contextmanager
def running_registry(
    folder: Path,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    trusted: Trust | None = None,
    tsa: bool = True,
    policy: Callable[[Trust], str] | None = None,
    listen: int = 0,
    **settings: Any,
) -> Iterator[Registry]:
    """A migrated registry on a free loopback port, in a thread of this process; it runs a time-stamping authority.

    `policy` writes another trust policy; `listen` is the port that an earlier one had.
    """
    trusted = trusted or Trust(folder / "trust")
    if policy is not None:
        trusted.policy_path.write_text(policy(trusted))
    if tsa:
        settings = {"tsa_key": trusted.tsa_key_path, "tsa_certificate": trusted.tsa_chain_path, **settings}
    # Most tests push bytes that are no model of any format; what the gate refuses has tests of its own.
    defaults = {"data_dir": folder / "data", "trust_policy": trusted.policy_path, "port": 0, "gate": "record"}
    built = Settings(**{**defaults, **settings})
    trusted.give_log_key(built.data_dir)
    opened = database.connect(built.resolved_database_url)
    migrations.migrate(opened.engine)
    opened.dispose()
    app = create_app(built, clock)
    listener = socket.create_server(("127.0.0.1", listen))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `modelreg-server serve` does
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the registry stopped while it started"
        assert time.monotonic() < deadline, "the registry did not start"
        time.sleep(0.01)
    try:
        yield Registry(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.parts, trusted, app)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


class RegistryProcess:
    """The real `modelreg-server serve` as a process that can be killed and started again on the same port."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.trust = Trust(folder / "trust")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELREG_")}
        self._env = {
            **kept,
            "MODELREG_DATA_DIR": str(folder / "data"),
            "MODELREG_TRUST_POLICY": str(self.trust.policy_path),
            "MODELREG_GATE": "record",
            **(environment or {}),
        }
        self.trust.give_log_key(folder / "data")
        self._log = (folder / "server.log").open("ab")
        self.scheme, self.port = "http", 0
        self.process: subprocess.Popen[bytes] | None = None
        made = subprocess.run(
            [sys.executable, "-c", "import modelreg_server as s; raise SystemExit(s.main())", "init"],
            env=self._env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.admin_token = made.stdout.split()[-1]

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> "RegistryProcess":
        command = [sys.executable, "-c", "import modelreg_server as s; raise SystemExit(s.main())", "serve"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], env=self._env, stdout=subprocess.PIPE, stderr=self._log
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        found = re.search(r"(https?)://[0-9.]+:(\d+)", line)
        assert found, f"no address in {line!r}; see {self.folder / 'server.log'}"
        self.scheme, self.port = found[1], int(found[2])
        return self

    def kill(self) -> None:
        """kill -9, by process id."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self._reap()

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait(20)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self._reap()
        self._log.close()
        canary.look_at_file("log", self.folder / "server.log")
