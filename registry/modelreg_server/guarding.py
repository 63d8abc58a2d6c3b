"""Routes that answer who may before they read a body, and record a denial before they answer it.

FastAPI reads and parses a JSON body before it asks any dependency. `GuardedRoute` asks the route's own declaration
(`Requires`, `Public`) first: what it does not admit has sent a head and nothing else. A route without a declaration
cannot be defined.
"""

import hashlib
from base64 import b64encode
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import Message

from modelreg import host_signing
from modelreg_server.callers import Hidden, NotPermitted, record_denial
from modelreg_server.dependencies import Public, Requires, parts_of


class GuardedRoute(APIRoute):
    """The class of every route of this API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind the route's declaration.

        Raises:
            TypeError: the route declares neither `Requires` nor `Public`.
        """
        handler = super().get_route_handler()
        guards = list(dict.fromkeys(_declared(self.dependant)))
        if not guards:
            raise TypeError(f"{self.path} declares neither Requires nor Public")
        streams = any(guard.streams for guard in guards)

        async def guarded(request: Request) -> Response:
            try:
                for guard in guards:
                    if not isinstance(guard, Public):
                        await run_in_threadpool(guard.admit, request)
                return await handler(_with_body_checked(request, streams=streams))
            except (Hidden, NotPermitted) as error:
                caller = request.scope["modelreg_caller"]
                await run_in_threadpool(record_denial, parts_of(request).recorder, caller, error)
                raise

        return guarded


def _declared(dependant: Dependant) -> list[Requires | Public]:
    found: list[Requires | Public] = [dependant.call] if isinstance(dependant.call, Requires | Public) else []
    for inner in dependant.dependencies:
        found += _declared(inner)
    return found


def _with_body_checked(request: Request, *, streams: bool) -> Request:
    """Where a host signed the request, hold what is read of the body against the digest it signed.

    Without a digest there may be no body, unless it is bytes that are measured anyway (`streams`).
    """
    if "signature-input" not in request.headers:
        return request
    expected = request.headers.get("content-digest")
    measured = hashlib.sha256()

    async def receive() -> Message:
        message = await request.receive()
        if message["type"] != "http.request" or (streams and expected is None):
            return message
        measured.update(message.get("body", b""))
        if expected is None and message.get("body"):
            raise host_signing.refusal()
        if expected is not None and not message.get("more_body", False):
            digest = f"sha-256=:{b64encode(measured.digest()).decode()}:"
            if digest != expected:
                raise host_signing.refusal()
        return message

    return Request(request.scope, receive)
