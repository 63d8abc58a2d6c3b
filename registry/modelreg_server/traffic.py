"""What every request passes through: an id, body limits, byte counts, safe headers and one log line.

Pure ASGI, so that bodies stream. Query strings and headers are never logged: presigned URLs and tokens are secrets.
"""

import json
import logging
import time
import uuid
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelreg.errors import ModelregError, TooLarge
from modelreg_server.problems import respond

_log = logging.getLogger("modelreg_server.requests")

MAX_JSON_BYTES = 4 * 1024 * 1024
# A manifest and a bundle as JSON strings; read only after the caller is known to be allowed to push.
MAX_PUBLICATION_BYTES = 160 * 1024 * 1024

_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'"),
]


@dataclass
class Counters:
    """Bytes of HTTP bodies since the process started; `/v1` carries weights only where the store cannot presign."""

    received_bytes: int = 0
    sent_bytes: int = 0


class BodyTooLarge(TooLarge):
    """Raised inside `receive` when a body passes its limit."""


class Traffic:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app = app
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["modelreg_request_id"] = str(uuid.uuid4())
        # Taken here, outside of what believes forwarded headers: later `client` may be the client's own word.
        scope["modelreg_peer"] = scope["client"][0] if scope.get("client") else None
        started = time.monotonic()
        status = 0
        received = sent = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                self._counters.received_bytes += size
                # Routes that stream a known number of bytes lift the limit for themselves; see dependencies.
                limit = scope.get("modelreg_body_limit", MAX_JSON_BYTES)
                if received > limit:
                    raise BodyTooLarge(f"the request body is larger than {limit} bytes", limit=limit)
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS, (b"x-request-id", request_id.encode())]
            elif message["type"] == "http.response.body":
                size = len(message.get("body", b""))
                sent += size
                self._counters.sent_bytes += size
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except ModelregError as error:
            if status == 0:
                await respond(request_id, error)(scope, receive, counted_send)
        except Exception:  # the last resort: the caller hears an id, the log has the trace
            _log.exception("request %s failed", request_id)
            if status != 0:
                raise
            problem = ModelregError(f"the registry failed; its log has the reason under request {request_id}")
            await respond(request_id, problem)(scope, receive, counted_send)
        finally:
            route = scope.get("route")
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "route": getattr(route, "path", None) or "-",
                "status": status,
                "principal": scope.get("modelreg_principal"),
                "milliseconds": round((time.monotonic() - started) * 1000, 1),
                "received_bytes": received,
                "sent_bytes": sent,
            }
            _log.info(json.dumps(line))
