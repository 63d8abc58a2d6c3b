"""Real servers for tests. A test names the fixture it needs; a machine without the server skips it and says why."""

import os
import uuid

import pytest

from support import canary

canary.watch()


@pytest.fixture(autouse=True)
def no_secret_is_seen():
    """Fails the test during which a secret went where others may read it."""
    yield
    hits, canary.found[:] = list(canary.found), []
    assert not hits, hits


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["canary"] = dict(canary.looked_at)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    canary.looked_at.update(getattr(node, "workeroutput", {}).get("canary", {}))


def pytest_terminal_summary(terminalreporter):
    places = ", ".join(f"{count} {place}" for place, count in sorted(canary.looked_at.items()))
    terminalreporter.write_line(f"texts searched for secrets: {places or 'none'}")


def _need(server, reason):
    """Skip for `reason`, if there is one; under CI a missing server is a failure, so that no run is green by omission."""
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{server} is missing under CI: {reason}", pytrace=False)
    pytest.skip(f"{server} is missing: {reason}")


@pytest.fixture(scope="session")
def s3_server():
    """OpenStack Swift with its S3 interface; with pytest-xdist one per worker (a second to start, nothing shared)."""
    from support import swift

    _need("An S3 server", swift.why_not())
    with swift.swift_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server, with fsync on; with pytest-xdist one per worker."""
    from support import postgres

    _need("PostgreSQL", postgres.why_not())
    with postgres.postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def softhsm():
    """SoftHSM 2 with a few tokens in a temporary folder; with pytest-xdist one per worker."""
    from support import softhsm

    _need("SoftHSM 2", softhsm.why_not())
    with softhsm.tokens() as made:
        yield made


@pytest.fixture(scope="session")
def openssl():
    """Runs the `openssl` command, an implementation of RFC 3161 that shares nothing with ours."""
    import shutil
    import subprocess

    found = shutil.which("openssl")
    _need("The openssl command", None if found else "install openssl")

    def run(*arguments, expect=0):
        done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60)
        assert done.returncode == expect, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    return run


@pytest.fixture
def openssl_tsa(openssl, tmp_path):
    """A time-stamping authority that is not ours."""
    from support.stamps import OpensslTsa

    (tmp_path / "openssl-tsa").mkdir()
    return OpensslTsa(openssl, tmp_path / "openssl-tsa")


@pytest.fixture(scope="session")
def oidc_provider():
    """A standards-conforming OIDC provider; with pytest-xdist one per worker."""
    from support import oidc

    _need("An OIDC provider", oidc.why_not())
    with oidc.oidc_provider() as provider:
        yield provider


@pytest.fixture
def s3_store(s3_server):
    """A store in a bucket of its own."""
    from modelreg_server.storage.s3 import S3Store

    return S3Store(
        bucket=s3_server.make_bucket(f"test-{uuid.uuid4().hex}"),
        endpoint_url=s3_server.endpoint,
        region=s3_server.region,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def either_database(request, tmp_path):
    """Settings for a new database of each kind."""
    if request.param == "sqlite":
        return {"database_url": f"sqlite:///{tmp_path / 'either.sqlite3'}"}
    return {"database_url": request.getfixturevalue("postgres").make_database("server")}
