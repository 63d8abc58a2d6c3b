"""Putting the parts together: the only place that chooses adapters."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import anyio.to_thread
from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from modelreg import __version__, promotion_policy
from modelreg.trust_metadata import parse_pinned_root
from modelreg_server import database, log_checking, log_keys, problems, timestamping, witnessing
from modelreg_server.database import Database
from modelreg_server.dependencies import Parts, read_policy, read_promotion_policy, read_root
from modelreg_server.group_commit import Recorder
from modelreg_server.identity.federation import Federation
from modelreg_server.identity.tokens import TokenAuthenticator
from modelreg_server.log_copies import Copies
from modelreg_server.log_publishing import Publishing
from modelreg_server.measuring import Measuring
from modelreg_server.migrations import require_current
from modelreg_server.routes import (
    access,
    attestations,
    datasets,
    events,
    evidence,
    exchange,
    grants,
    health,
    hosts,
    inventory,
    loads,
    log,
    lookups,
    principals,
    promotions,
    publications,
    recalls,
    repositories,
    scans,
    signatures,
    timestamps,
    trust,
)
from modelreg_server.settings import Settings
from modelreg_server.storage import BlobStore, LogStore, Presigner
from modelreg_server.storage.directory import DirectoryStore
from modelreg_server.traffic import Counters, Traffic

_log = logging.getLogger(__name__)
_MEASURING_CONNECTIONS = 8  # beside one for every request thread
_PUBLISHING_CONNECTIONS = 2  # one reads, one holds the lock


def create_app(settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> FastAPI:
    """Build the server; opens the database and the store.

    Raises:
        Misconfigured: the database is unreachable or not migrated, the store unreachable, the trust policy unreadable.
        RecordUnavailable: the custody log may not be appended to.
    """
    opened = database.connect(
        settings.resolved_database_url, settings.threads + _MEASURING_CONNECTIONS + _PUBLISHING_CONNECTIONS
    )
    require_current(opened.engine)
    if settings.trust_policy is not None:
        read_policy(settings.trust_policy)
    elif settings.trust_from_repository:
        parse_pinned_root(read_root(settings.trust_root))
    else:
        _log.warning("no trust policy (MODELREG_TRUST_POLICY): nothing can be published")
    if settings.promotion_policy is not None:
        promotion_policy.parse(read_promotion_policy(settings.promotion_policy))
    federation = Federation(settings.identities)
    federation.issuers()  # a malformed file stops the start, not the first login
    store, presigner = open_store(settings)
    opened, copies = open_log(settings, opened, store, clock())
    publishing = Publishing(
        opened,
        copies,
        settings.data_dir / "log.publishing.lock",
        every_seconds=settings.log_publish_seconds,
        max_lag_seconds=settings.log_publish_max_lag_seconds,
    )
    measuring = Measuring(store, len(os.sched_getaffinity(0)))
    counters = Counters()
    witnesses = witnessing.open_witnesses(settings.witnesses)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # Threads and database connections are sized together: a thread without a connection would wait for one.
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.threads
        publishing.start()
        yield
        measuring.close()
        publishing.close()
        if witnesses is not None:
            witnesses.close()
        opened.dispose()

    app = FastAPI(
        title="modelreg",
        version=__version__,
        summary="The internal registry for signed model weights.",
        lifespan=lifespan,
        responses=problems.RESPONSES,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect is one more place to lose a credential
    )
    app.state.parts = Parts(
        settings=settings,
        database=opened,
        recorder=Recorder(opened, witnesses),
        store=store,
        presigner=presigner,
        authenticator=TokenAuthenticator(),
        federation=federation,
        measuring=measuring,
        clock=clock,
        counters=counters,
        publishing=publishing,
        tsa=_time_stamping_authority(settings),
    )
    for module in (
        grants,  # first: it is asked most
        health,
        exchange,
        principals,
        access,
        hosts,
        repositories,
        publications,
        loads,
        events,
        timestamps,
        signatures,
        evidence,
        lookups,
        trust,
        log,
        recalls,
        attestations,
        inventory,
        datasets,
        promotions,
        scans,
    ):
        app.include_router(module.router)
    problems.install(app)
    if settings.behind_proxy is not None:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.behind_proxy)
    app.add_middleware(Traffic, counters=counters)  # outermost
    return app


def _time_stamping_authority(settings: Settings) -> timestamping.TimeStampingAuthority | None:
    if settings.tsa_key is None or settings.tsa_certificate is None:
        return None
    secret = settings.tsa_key_password
    password = secret.get_secret_value().encode() if secret else None
    return timestamping.load(settings.tsa_key, settings.tsa_certificate, settings.tsa_policy, password)


def open_log(
    settings: Settings, opened: Database, store: LogStore, now: datetime, *, check: bool = True
) -> tuple[Database, Copies]:
    """The database with what its log is signed with, and the log's copies in the store.

    Raises:
        Misconfigured: the log's key is not there.
        RecordUnavailable: the log contradicts itself or what was published; left out without `check`.
    """
    signer = log_keys.open_signer(settings, opened, check=check)
    opened, copies = replace(opened, log_signer=signer), Copies(store, signer)
    if check:
        log_checking.require_appendable(opened, copies, now)
    return opened, copies


class _Store(BlobStore, LogStore, Protocol):
    """What both adapters are."""


def open_store(settings: Settings) -> tuple[_Store, Presigner | None]:
    """The store that the settings name, and what presigns for it.

    Raises:
        Misconfigured: it cannot be reached.
    """
    if settings.s3_bucket is None:
        return DirectoryStore(settings.data_dir), None
    from modelreg_server.storage.s3 import S3Store  # noqa: PLC0415  # boto3 costs seconds that the embedded default saves

    secret = settings.s3_secret_access_key
    store = S3Store(
        bucket=settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=secret.get_secret_value() if secret else None,
        max_connections=settings.threads,
        presign_seconds=settings.presign_seconds,
    )
    store.check()
    return store, None if settings.bytes_through_server else store
