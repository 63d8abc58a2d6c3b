"""`modelreg-server init | migrate | serve | sweep | log | decisions`. Settings are `MODELREG_*`; a flag goes before them."""

import argparse
import gc
import logging
import os
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from modelreg import __version__
from modelreg.errors import Misconfigured, ModelregError
from modelreg_server import database, decision_commands, log_commands, log_copies, migrations, sweeping, workers
from modelreg_server.app import create_app, open_log, open_store
from modelreg_server.custody import Actor
from modelreg_server.identity import EVERYWHERE, Scope, Verb, tokens
from modelreg_server.settings import Settings

_BACKLOG = 512
_ADMIN_TOKEN_LIFETIME = timedelta(hours=1)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code of DESIGN §5."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except ModelregError as error:
        print(f"modelreg-server: {error.detail}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelreg-server", description="The registry server.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data-dir", type=Path, help="where the embedded database and blobs live (MODELREG_DATA_DIR)")

    init = commands.add_parser("init", parents=[common], help="prepare a new registry and print an admin token, once")
    init.set_defaults(run=_init)
    migrate = commands.add_parser("migrate", parents=[common], help="bring the database to this version's schema")
    migrate.set_defaults(run=_migrate)
    serve = commands.add_parser("serve", parents=[common], help="run the registry")
    serve.add_argument("--host", help="address to listen on (MODELREG_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for any free one (MODELREG_PORT, 8470)")
    serve.add_argument("--trust-policy", type=Path, help="who may sign what is pushed (MODELREG_TRUST_POLICY)")
    serve.add_argument("--workers", type=int, help="processes that serve at once (MODELREG_WORKERS, 1)")
    serve.set_defaults(run=_serve)
    sweep = commands.add_parser(
        "sweep", parents=[common], help="remove what expired: uploads of publications, used tokens"
    )
    sweep.set_defaults(run=_sweep)
    log_commands.add(commands, common, _settings)
    decision_commands.add(commands, common, _settings)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    names = ("data_dir", "host", "port", "trust_policy", "workers")
    given: dict[str, Any] = {name: getattr(options, name, None) for name in names}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = "MODELREG_" + "_".join(str(part) for part in first["loc"]).upper()
        raise Misconfigured(f"{name}: {first['msg']}; set it, or pass the flag", setting=name) from None


def _init(options: argparse.Namespace) -> None:
    settings = _settings(options)
    opened = database.connect(settings.resolved_database_url)
    migrations.migrate(opened.engine)
    now = datetime.now(UTC)
    opened, copies = open_log(settings, opened, open_store(settings)[0], now)
    actor = Actor("server:init", None)
    with opened.writing() as session, session.begin():
        if tokens.every_token(session, now):
            raise Misconfigured("this registry was initialised before; an admin can issue tokens with `modelreg token`")
        scopes = [Scope(verb, EVERYWHERE) for verb in Verb]
        text, _row = tokens.issue(
            session, actor, principal="person:admin", scopes=scopes, lifetime=_ADMIN_TOKEN_LIFETIME, now=now
        )
    with opened.reading() as session:
        log_copies.publish(session, copies, 0)
    print("The custody log's key, for `modelreg trust init --log` or the [log] table of the trust policy:")
    print(copies.key)
    print("The admin token, shown once and valid for an hour; issue named ones with it (`modelreg token create`):")
    print(text)


def _migrate(options: argparse.Namespace) -> None:
    opened = database.connect(_settings(options).resolved_database_url)
    migrations.migrate(opened.engine)
    print("the database has this version's schema")


def _sweep(options: argparse.Namespace) -> None:
    app = create_app(_settings(options))
    removed = sweeping.sweep(app.state.parts.database, app.state.parts.store, datetime.now(UTC))
    print(f"removed {removed} uploads of expired publications")


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(options)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    _require_tls_files(settings)
    family = _family(settings.host)
    if settings.workers == 1:
        app = create_app(settings)
        # Bound before the address is printed: whoever reads it can connect.
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
        _announce(settings, listener)
        _run(app, settings, listener)
        return 0
    reserved = workers.reusable_listener(settings.host, settings.port, family)
    port = reserved.getsockname()[1]

    def serve(ready: Callable[[], None]) -> None:
        app = create_app(settings)
        listener = workers.reusable_listener(settings.host, port, family)
        listener.listen(_BACKLOG)
        ready()
        _run(app, settings, listener)

    return workers.run(settings.workers, serve, lambda: _announce(settings, reserved))


def _announce(settings: Settings, listener: socket.socket) -> None:
    scheme = "https" if settings.tls_certificate else "http"
    print(f"modelreg {__version__} serves {scheme}://{settings.host}:{listener.getsockname()[1]} (pid {os.getpid()})")
    sys.stdout.flush()


def _run(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    # asyncio does it for sockets it knows to be TCP, and this one does not say so: head and body 40 ms apart (seen).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    gc.collect()
    gc.freeze()  # what was imported and built stays: looking through it again and again took a tenth of the time (measured)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would log query strings
        server_header=False,
        date_header=True,
        proxy_headers=False,  # `create_app` believes them, after it has noted whom the connection is from
        ssl_certfile=str(settings.tls_certificate) if settings.tls_certificate else None,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _require_tls_files(settings: Settings) -> None:
    """Say now, in a sentence, what uvicorn would say later in a traceback."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_certificate,
            settings.tls_key,
            password=lambda: "",  # or OpenSSL asks whoever sits at the terminal
        )
    except OSError as error:  # ssl.SSLError is one
        raise Misconfigured(
            f"{settings.tls_certificate} and {settings.tls_key} cannot serve TLS: {error.strerror or error}; set "
            "MODELREG_TLS_CERTIFICATE to a PEM chain, leaf first, and MODELREG_TLS_KEY to its key, without a password",
            setting="MODELREG_TLS_CERTIFICATE",
        ) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
