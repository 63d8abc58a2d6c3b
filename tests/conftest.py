"""Real servers for tests. A test names the fixture it needs; a machine without the server skips it and says why."""

import os
import uuid

import pytest


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
